//! Open files of the calling task.

use aya_ebpf::helpers::bpf_get_current_task;

use crate::{
    config::{FDTABLE_FD, FDTABLE_MAX_FDS, FILE_INODE, FILES_FDT, INODE_MODE, INODE_RDEV, TASK_FILES},
    task::{Pointer, read},
};

const S_IFMT: u16 = 0o170_000;
/// Sockets.
pub const S_IFSOCK: u16 = 0o140_000;
const S_IFCHR: u16 = 0o020_000;

/// The `struct file` behind a descriptor of the calling task, and its inode, if that is of this kind (`S_IF*`). Nothing is locked: a
/// descriptor that another thread closes meanwhile may read as any other file, whose call then fails.
#[inline(always)]
pub fn of_descriptor(fd: u32, kind: u16) -> Option<(Pointer, Pointer)> {
    // SAFETY: the helper has no preconditions.
    let current = unsafe { bpf_get_current_task() } as Pointer;
    let files: Pointer = read(current, TASK_FILES.load())?;
    let table: Pointer = read(files, FILES_FDT.load())?;
    if fd >= read(table, FDTABLE_MAX_FDS.load())? {
        return None;
    }
    let slots: Pointer = read(table, FDTABLE_FD.load())?;
    let slot = slots.cast::<Pointer>().wrapping_add(fd as usize);
    let file: Pointer = read(slot.cast(), 0)?;
    let inode: Pointer = read(file, FILE_INODE.load())?;
    let mode: u16 = read(inode, INODE_MODE.load())?;
    (mode & S_IFMT == kind).then_some((file, inode))
}

/// The number of the character device behind a descriptor of the calling task; `None` if it is something else.
#[inline(always)]
pub fn device(fd: u32) -> Option<u32> {
    let (_, inode) = of_descriptor(fd, S_IFCHR)?;
    read(inode, INODE_RDEV.load())
}
