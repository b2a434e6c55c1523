"""How glibc hands out memory to the stages, on Linux: what XLA computes in, anew in each step, stays the process's own.

By default what is large is mapped for each step and zeroed by the kernel page by page, a tenth of a small model's step
on a CPU and more. Programs read this when they start, so whoever starts one sets it.
"""

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",  # in huge pages
        "glibc.malloc.mmap_max=0",  # nothing is mapped by itself
        f"glibc.malloc.trim_threshold={1 << 40}",  # nothing is given back
    )
)
