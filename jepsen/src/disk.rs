//! A disk that can be slow, full, and lose power: a file system in user space over a directory.
//!
//! What is done to the mount is done to the directory behind it at once; beside that it is remembered how to undo
//! what is not on the disk yet. A power cut undoes it:
//!
//! - *Contents and sizes* of a file are on the disk after `fsync` or `fdatasync` of that file by anybody, or a write
//!   through a handle opened with `O_SYNC` or `O_DSYNC`. What was written since is lost: all of it, or by seed some: each
//!   piece of 4 KiB is kept, lost or torn at 512 bytes, and the size is the old one or the new one. A size that was
//!   kept without its content shows zeros. There is no order between files.
//! - *Names* (files and directories made, removed, moved, linked) go to the disk in one order, as in the journal of
//!   ext4: any `fsync` takes all of them there, and so does an `fdatasync` of a file that is new or has another size.
//!   All that are not there, or by seed the last so many, are undone. A file that was moved in place of another without
//!   `fsync` can be empty afterwards: nothing is written early as ext4 does with `auto_da_alloc`.
//! - *Owners, modes and times* are on the disk at once. `sync_file_range` does nothing; `sync` and `syncfs` are not seen
//!   (the kernel does not tell).
//! - A disk that *lies* says that it synced, and does not.
//!
//! A *slow* disk makes each write and each sync wait, sixteen at a time. A *full* one refuses writes that make a file
//! longer and whatever makes a name, and says that nothing is free. Reads are never wrong and never wait for the disk,
//! only for a free one of the sixteen, and most come from the kernel's memory.
//!
//! After a power cut it is mounted anew, so that the kernel remembers nothing that is not true any more; whoever has
//! files open has to be dead by then. Each disk is served by a process of its own, which ends, and takes the mount with
//! it, when its standard input does.

mod names;
mod pieces;
mod process;
mod serve;
mod store;
mod wire;

pub use pieces::Loss;
pub use process::{Disk, Order, serve, unmount_below};
