"""The event file of one training, which TensorBoard shows as a run with the name of its folder.

A file of records, each one Event in Protocol Buffers' encoding between checksums, as TensorBoard's own writer
frames them. Its packages are imported when the first file is opened.
"""

import os
import struct
import time
from pathlib import Path

PREFIX = "events.out.tfevents."  # what TensorBoard looks for
LENGTH = struct.Struct("<QI")  # bytes of the event, checksum of that number
CHECKSUM_BYTES = 4  # after the event


class EventFile:
    """Appends the numbers of steps; what earlier starts wrote of steps before a checkpoint stays as it was."""

    def __init__(self, folder: Path, steps: int):
        """Keeps what stands in `folder` of up to `steps` steps; `last_step` is the last one of which all is there."""
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.Event = event_pb2.Event
        folder.mkdir(exist_ok=True)
        old = sorted(folder.glob(f"{PREFIX}*"))
        kept, self.last_step = self.whole_steps(old[-1].read_bytes(), steps) if old else (b"", 0)
        number = int(old[-1].name.removeprefix(PREFIX)) + 1 if old else 1
        # a TensorBoard that is at work goes on from a file's end to the next file, if the first still has its name
        for path in old[:-1]:
            path.unlink()
        if old:
            os.truncate(old[-1], 0)
        self.file = (folder / f"{PREFIX}{number:05d}").open("wb")
        self.writer = RecordWriter(self.file)
        self.write(file_version="brain.Event:2")
        self.write(session_log={"status": "START"})  # it forgets what it read before
        self.file.write(kept)
        self.flush()

    def whole_steps(self, data: bytes, steps: int) -> tuple[bytes, int]:
        """Returns (the records of whole steps up to `steps`, the last of them); a step may have several records."""
        from google.protobuf.message import DecodeError
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        at, begin, end, last, current = 0, 0, 0, 0, 0
        while at + LENGTH.size <= len(data):
            size, checksum = LENGTH.unpack_from(data, at)
            after = at + LENGTH.size + size + CHECKSUM_BYTES
            if checksum != masked_crc32c(data[at : at + 8]) or after > len(data):
                break
            try:
                step = self.Event.FromString(data[at + LENGTH.size : after - CHECKSUM_BYTES]).step
            except DecodeError:  # zeros, after a power cut
                break
            if step > current:  # so of the one before nothing is missing
                begin, end, last, current = begin if current else at, at, current, step
            if step > steps:
                break
            at = after
        return data[begin:end], last

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers of a step by their tags."""
        self.write(step=step, summary={"value": [{"tag": tag, "simple_value": values[tag]} for tag in values]})

    def write(self, **event) -> None:
        self.writer.write(self.Event(wall_time=time.time(), **event).SerializeToString())

    def flush(self) -> None:
        """Hands everything to the system, so that readers and a kill -9 find whole records."""
        self.file.flush()

    def close(self) -> None:
        self.file.close()
