//! The `countersign` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_freed_memory();
    countersign::cli::main()
}

/// Has the allocator keep up to twice [`KEPT`] free at the end of a heap instead of giving it back to the kernel.
///
/// glibc starts with 128 KiB: a relay of large chunks then gives pages back and takes them again many thousand times a
/// second, and a third of the receiver's time goes into page faults. Freeing one large block raises that threshold to twice its size
/// (mallopt(3), `M_MMAP_THRESHOLD`, on the dynamic threshold). Other allocators do not mind.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT)));
}

/// Size of that block in bytes.
const KEPT: usize = 4 * 1024 * 1024;
