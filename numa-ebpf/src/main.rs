//! The BPF programs: one small program per tracepoint (`probes`), over shared bodies.
//!
//! Every program filters first (ourselves, unmarked tasks), does a bounded amount of work, and either gets its record
//! into the ring buffer or counts that it did not. Field offsets come from the running kernel's BTF through [`config`].
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod accounts;
#[cfg(target_arch = "bpf")]
mod automaton;
#[cfg(target_arch = "bpf")]
mod config;
#[cfg(target_arch = "bpf")]
mod file;
#[cfg(target_arch = "bpf")]
mod holding;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod namespace;
#[cfg(target_arch = "bpf")]
mod probes;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod subject;
#[cfg(target_arch = "bpf")]
mod task;

/// Host builds of the whole workspace see an empty program.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Half of the helpers used are for GPL-compatible programs only; the kernel knows this spelling
/// (`license_is_gpl_compatible`, `include/linux/license.h`).
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses programs that could.
    loop {}
}
