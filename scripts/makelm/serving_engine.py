"""The thread that owns the generator: texts wait in a queue, take free slots between two chunks, and pieces go back.

The rest of a server is an event loop of another thread; what is said there stands so at each function.
"""

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil

from makelm.generate import LEAST_READ, Engine, Piece, Slot
from makelm.prompt_scores import PromptScorer
from makelm.sampling import Needs, Options
from makelm.serving_errors import ApiError
from makelm.serving_metrics import Metrics
from makelm.serving_requests import ALTERNATIVES

CHUNK = 8  # tokens between two looks: people see each, and who leaves frees a slot
READS = 4  # prompts between two chunks, at most: those who are being written to wait meanwhile
NO_SLOT = -1  # of what is said of a prompt
LATEST = 30  # texts that ended; how soon slots become free is reckoned from them
LONGEST_WAIT = 30  # seconds that a client is told to wait, at most


class SteadyEngine(Engine):
    """An engine whose every step is the same program, whoever else is there: so a text's bits are its own too."""

    def looks(self, live: list[Slot]) -> tuple[int, int, Needs]:
        return self.kept, self.chunk, Needs(draws=True, restricts=True, penalizes=True, alternatives=self.alternatives)

    @property
    def alternatives(self) -> int:
        """Returns how many there are beside each token."""
        return min(ALTERNATIVES, self.skeleton.vocab_size)

    def warm_up(self) -> None:
        """Compiles all that every text needs: a prompt of each size, and a step."""
        options, size = Options(max_new_tokens=1, temperature=0), LEAST_READ
        longest = self.length - (self.skeleton.shape.positions.kind == "learned")
        while True:
            # the last token of a prompt is not read with it
            self.admit([0] * min(size + 1, longest), options)
            self.step()
            if size >= self.length:
                return
            size *= 2


class Answer:
    """What comes back to one request; all of it in the event loop."""

    def __init__(self, open_texts: int):
        self.open, self.error = open_texts, None
        self.arrived: list[tuple[int, Piece]] = []
        self.event = asyncio.Event()

    def take(self, number: int, piece: Piece) -> None:
        """Takes in what came to one of the texts."""
        self.arrived.append((number, piece))
        self.open -= piece.finish_reason is not None
        self.event.set()

    def fail(self, error: ApiError) -> None:
        """Ends it."""
        self.error = error
        self.event.set()

    async def batches(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """Yields all that has come, whenever something has, until all texts have ended. Raises ApiError.

        Who asks seldom gets more at once: what is kept is never more than the texts.
        """
        while self.open or self.arrived:
            await self.event.wait()
            self.event.clear()
            arrived, self.arrived = self.arrived, []
            if arrived:
                yield arrived
            if self.error:
                raise self.error


@dataclass(eq=False)
class Text:
    """One text to write."""

    ids: list[int]
    options: Options
    answer: Answer
    number: int  # among those of the answer
    scored: bool  # whether it begins with what its prompt costs
    asked: float = field(default_factory=time.monotonic)
    begun: float = 0.0
    first: float = 0.0  # when its first tokens came
    more: int = 0  # tokens after these
    dropped: bool = False  # nobody waits for it any more


class Writer(threading.Thread):
    """Writes texts until it is stopped."""

    def __init__(self, engine: SteadyEngine, queue: int, metrics: Metrics, say: Callable[[str], None]):
        """`queue` are the texts that may wait."""
        super().__init__(name="writer", daemon=True)
        self.engine, self.queue, self.metrics, self.say = engine, queue, metrics, say
        self.scorer, self.compiling = PromptScorer(engine, engine.alternatives), asyncio.Lock()
        self.changed = threading.Condition()
        self.waiting: deque[Text] = deque()
        self.live: dict[int, Text] = {}  # by slot; the thread's own
        self.answers: set[Answer] = set()  # the event loop's own
        self.took: deque[float] = deque([1.0], maxlen=LATEST)  # seconds that texts were in their slots
        self.state = "warming up"  # or ready, stopped, dead
        self.loop: asyncio.AbstractEventLoop | None = None

    # ---- in the event loop

    def begin(self) -> None:
        """Starts the thread."""
        self.loop = asyncio.get_running_loop()
        self.start()

    async def prepare(self, prompts: list[list[int]]) -> None:
        """Compiles what scores these prompts, beside the thread: texts are written on meanwhile."""
        if self.scorer.missing(prompts):
            async with self.compiling:
                await asyncio.to_thread(self.scorer.compile, self.scorer.missing(prompts))

    def ask(self, texts: list[tuple[list[int], Options]], scored: bool = False) -> tuple[Answer, list[Text]]:
        """Puts texts, prompts' ids and options, into the queue. Raises ApiError where there is no room."""
        if self.state in ("dead", "stopped"):
            raise self.gone()
        answer = Answer(len(texts))
        found = [Text(ids, options, answer, number, scored) for number, (ids, options) in enumerate(texts)]
        with self.changed:
            if len(self.waiting) + len(found) > self.queue:
                raise self.full(len(self.waiting) + len(found) - self.queue)
            self.waiting.extend(found)
            self.changed.notify()
        self.answers.add(answer)
        return answer, found

    def full(self, texts: int) -> ApiError:
        """Returns what a client is told while so many texts too many would wait."""
        rounds = texts / len(self.engine.slots)
        wait = min(max(1, ceil(rounds * sum(self.took) / len(self.took))), LONGEST_WAIT)
        message = f"{self.queue} texts wait already; try again in {wait} s"
        return ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)})

    def gone(self) -> ApiError:
        if self.state == "stopped":
            return ApiError(503, "the server is going down", code="stopping", headers={"Retry-After": "5"})
        return ApiError(500, "the model cannot write any more; the server's log says why", code="dead")

    def drop(self, answer: Answer, texts: list[Text]) -> None:
        """Forgets texts, written or not: slots are free before the next chunk."""
        self.answers.discard(answer)
        with self.changed:
            for text in texts:
                text.dropped = True
            self.waiting = deque(text for text in self.waiting if not text.dropped)

    def begin_answer(self, text: Text, prompt: Piece) -> None:
        """Gives a request what its prompt costs, or an end without a token."""
        if text.answer in self.answers:
            text.answer.take(text.number, prompt)

    def hand_over(self, pieces: list[tuple[Text, Piece]]) -> None:
        """Gives the requests what came to their texts."""
        for text, piece in pieces:
            if text.answer in self.answers:
                text.answer.take(text.number, piece)
                self.note(text, piece)

    def note(self, text: Text, piece: Piece) -> None:
        """Counts how long a text takes."""
        now = time.monotonic()
        if text.first:
            text.more += len(piece.ids)
        else:
            text.first = now
            self.metrics.first.observe(now - text.asked)
        if piece.finish_reason:
            self.took.append(now - text.begun)
            if text.more:
                self.metrics.next.observe((now - text.first) / text.more)

    def end_all(self) -> None:
        """Tells all that wait that nothing more comes."""
        for answer in self.answers:
            answer.fail(self.gone())

    def stop(self) -> None:
        """Ends the thread after its chunk, and all answers."""
        with self.changed:
            if self.state != "dead":
                self.state = "stopped"
            self.changed.notify()
        self.end_all()

    # ---- in the thread

    def run(self) -> None:
        try:
            started = time.monotonic()
            self.engine.warm_up()
            with self.changed:
                if self.state == "warming up":
                    self.state = "ready"
            self.say(f"compiled in {time.monotonic() - started:.1f} s; ready")
            while self.goes_on():
                self.let_go()
                self.let_in()
                self.write()
        except Exception:
            traceback.print_exc()
            self.state = "dead"
            self.tell(self.end_all)

    def goes_on(self) -> bool:
        """Waits until there is something to do. Returns whether there is."""
        with self.changed:
            self.changed.wait_for(lambda: self.live or self.waiting or self.state == "stopped")
            return self.state != "stopped"

    def let_go(self) -> None:
        """Frees the slots of texts that nobody waits for."""
        for slot, text in list(self.live.items()):
            if text.dropped:
                self.engine.release(slot)
                del self.live[slot]

    def let_in(self) -> None:
        """Reads the next prompts."""
        for _ in range(READS):
            text = self.next_text()
            if text is None:
                return
            text.begun = time.monotonic()
            self.read(text)

    def next_text(self) -> Text | None:
        """Returns the next text out of the queue, where it finds a slot or, with no token to write, needs none."""
        with self.changed:
            ready = self.waiting and (self.engine.free or not self.waiting[0].options.max_new_tokens)
            return self.waiting.popleft() if ready else None

    def read(self, text: Text) -> None:
        """Reads a prompt: to score it, to write on from it, or both."""
        writes = text.options.max_new_tokens > 0
        logprobs, alternatives = self.scorer(text.ids) if text.scored else ([], [])
        if writes:
            self.live[self.engine.admit(text.ids, text.options)] = text
        if text.scored or writes:
            self.metrics.read.inc(len(text.ids))
        if text.scored or not writes:
            kept = [each[: text.options.logprobs] for each in alternatives]
            prompt = Piece(NO_SLOT, [], "", logprobs, kept, None if writes else "length")
            self.tell(self.begin_answer, text, prompt)

    def write(self) -> None:
        """Writes a chunk and sends off what came."""
        pieces = [(self.live[piece.slot], piece) for piece in self.engine.step()]
        for _, piece in pieces:
            if piece.finish_reason:
                del self.live[piece.slot]
            self.metrics.written.inc(len(piece.ids))
        if pieces:
            self.tell(self.hand_over, pieces)

    def tell(self, what: Callable[..., None], *words) -> None:
        """Has the event loop do something, if it is still there."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(what, *words)
