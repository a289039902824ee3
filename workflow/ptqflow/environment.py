"""Variables of every stage's process. Libraries read them as they are loaded, so whoever starts a stage sets them."""

VARIABLES = {
    # Threads spin only briefly before they sleep: processes that oversubscribe a CPU would lose a factor of ten and more, threads
    # that never spin a fifth.
    "GOMP_SPINCOUNT": "1000",
    # Freed memory is kept: passes through blocks would spend a fifth of their time on page faults. Only glibc reads this. No huge
    # pages: a virtual machine may clear those six times slower than small ones.
    "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=536870912:glibc.malloc.mmap_threshold=33554432",
}
