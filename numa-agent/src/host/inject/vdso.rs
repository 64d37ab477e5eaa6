//! A system call's instruction in the code that the kernel itself maps into every process.

use std::{fs::File, os::unix::fs::FileExt};

use super::arch;

/// `AT_SYSINFO_EHDR` of `include/uapi/linux/auxvec.h`: where the vDSO is.
const VDSO: u64 = 33;

/// The most that is looked at. The largest of 6.18 has two pages of 4 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// Its address, in the memory of a thread's process.
pub fn find_call(tid: u32, memory: &File) -> Option<u64> {
    let auxiliary = std::fs::read(format!("/proc/{tid}/auxv")).ok()?;
    let base = address(&auxiliary)?;
    let mut header = [0; 64];
    memory.read_exact_at(&mut header, base).ok()?;
    let (offset, length) = code(&header, |bytes, at| memory.read_exact_at(bytes, base + at).ok())?;
    let mut code = vec![0; usize::try_from(length.min(MAX_BYTES)).ok()?];
    memory.read_exact_at(&mut code, base + offset).ok()?;
    // Wherever these bytes are in memory that may be executed, they are this instruction.
    let at = (0..code.len()).step_by(arch::ALIGNMENT).find(|at| code[*at..].starts_with(&arch::CALL))?;
    Some(base + offset + at as u64)
}

/// Where the vDSO is, by a process's auxiliary vector.
fn address(auxiliary: &[u8]) -> Option<u64> {
    auxiliary.chunks_exact(16).find(|pair| word(pair, 0) == Some(VDSO)).and_then(|pair| word(pair, 8))
}

/// Offset and length of the segment that may be executed, of a 64-bit ELF image.
fn code(header: &[u8; 64], read: impl Fn(&mut [u8], u64) -> Option<()>) -> Option<(u64, u64)> {
    const LOAD: u64 = 1;
    const EXECUTE: u64 = 1;
    const SEGMENT_BYTES: usize = 56;
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let segments = word(header, 32)?;
    let count = u64::from(u16::from_ne_bytes(header[56..58].try_into().ok()?));
    (0..count).find_map(|index| {
        let mut segment = [0; SEGMENT_BYTES];
        read(&mut segment, segments + index * SEGMENT_BYTES as u64)?;
        // Type and flags share the first word.
        let first = word(&segment, 0)?;
        let (kind, flags) = (first & 0xffff_ffff, first >> 32);
        (kind == LOAD && flags & EXECUTE != 0).then_some((word(&segment, 8)?, word(&segment, 32)?))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_instruction_in_its_own_vdso() {
        let me = std::process::id();
        let memory = File::open("/proc/self/mem").unwrap();
        let at = find_call(me, &memory).expect("every kernel here has one");
        let mut code = arch::CALL;
        code.fill(0);
        memory.read_exact_at(&mut code, at).unwrap();
        assert_eq!(code, arch::CALL);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        assert!((number(from)..number(to)).contains(&at) && line.contains("r-xp"), "{at:x} in {line}");
    }

    #[test]
    fn what_is_no_image_has_no_code() {
        assert_eq!(code(&[0; 64], |_, _| Some(())), None);
        let mut header = [0; 64];
        header[..5].copy_from_slice(b"\x7fELF\x02");
        header[56] = 3;
        assert_eq!(code(&header, |_, _| None), None, "its segments cannot be read");
        assert_eq!(code(&header, |_, _| Some(())), None, "none of them is code");
        assert_eq!(address(&[1; 40]), None);
    }
}
