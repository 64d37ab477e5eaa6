//! The text that the filter looks at: name and arguments, in an [`Exec`] record.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_user};
use numa_ebpf::record::{ARGS_MAX, Exec, flag};

use crate::{
    config::{MM_ARG_END, MM_ARG_START},
    task,
};

/// Reads the calling task's arguments into `record`, as many bytes as fit. Sets the flag where there are more, or where
/// they cannot be read without sleeping.
#[inline(always)]
pub fn read_args(record: &mut Exec, task: task::Pointer) {
    record.args_len = 0;
    let bounds = task::mm(task).and_then(|mm| {
        Some((task::read::<u64>(mm, MM_ARG_START.load())?, task::read::<u64>(mm, MM_ARG_END.load())?))
    });
    let Some((start, end)) = bounds else {
        record.header.flags |= flag::TRUNCATED;
        return;
    };
    let mut length = end.wrapping_sub(start);
    if length > ARGS_MAX as u64 {
        length = ARGS_MAX as u64;
        record.header.flags |= flag::TRUNCATED;
    }
    // SAFETY: `length` is at most the size of `args`, and the helper handles any address.
    let result = unsafe {
        bpf_probe_read_user(record.args.as_mut_ptr().cast::<c_void>(), length as u32, start as *const c_void)
    };
    if result == 0 {
        record.args_len = length as u32;
        end_with_zeros(&mut record.args, length as usize);
    } else {
        record.header.flags |= flag::TRUNCATED;
    }
}

/// The filter looks at whole words: what was there before is not to be taken for arguments. Where there is no room for that, it may be:
/// the filter may pass too much.
#[inline(always)]
fn end_with_zeros(args: &mut [u8; ARGS_MAX], length: usize) {
    for index in 0..size_of::<u64>() {
        // Read back so that the bound is checked here: before 5.16 or so the verifier forgets bounds of spilled values.
        // SAFETY: a local.
        let at = unsafe { (&raw const length).read_volatile() } + index;
        if at < ARGS_MAX {
            args[at] = 0;
        }
    }
}
