//! What an ELF file's headers say of it: whether it is what we ship. No I/O.

use std::fmt;

use crate::build::Arch;

/// The program header of a program that wants a dynamic linker.
const PT_INTERP: u32 = 3;

/// Why a file is no static binary for an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not a 64-bit, little-endian ELF file with all of its program headers.
    NotElf,
    /// Neither a program nor a shared object, but of this `e_type`.
    NotProgram(u16),
    /// For this `e_machine`.
    Machine(u16),
    /// It wants a dynamic linker.
    Dynamic,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("no complete 64-bit little-endian ELF file"),
            Self::NotProgram(kind) => write!(f, "no program: ELF type {kind}"),
            Self::Machine(machine) => write!(f, "for ELF machine {machine}"),
            Self::Dynamic => f.write_str("not static: it wants a dynamic linker"),
        }
    }
}

impl std::error::Error for Fault {}

/// Whether `file` is a static program for `arch`.
///
/// # Errors
/// Says what it is instead.
pub fn check_static(file: &[u8], arch: Arch) -> Result<(), Fault> {
    // Class 2 is 64 bits, data 1 is little-endian.
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return Err(Fault::NotElf);
    }
    let kind = u16_at(file, 16)?;
    // ET_EXEC, or ET_DYN: static programs are position-independent too.
    if !matches!(kind, 2 | 3) {
        return Err(Fault::NotProgram(kind));
    }
    let machine = u16_at(file, 18)?;
    let wanted = match arch {
        Arch::X86_64 => 62,
        Arch::Aarch64 => 183,
    };
    if machine != wanted {
        return Err(Fault::Machine(machine));
    }
    let table = usize::try_from(u64::from_le_bytes(bytes(file, 32)?)).map_err(|_| Fault::NotElf)?;
    let (size, count) = (usize::from(u16_at(file, 54)?), usize::from(u16_at(file, 56)?));
    for index in 0..count {
        let header = table.checked_add(index * size).ok_or(Fault::NotElf)?;
        if u32::from_le_bytes(bytes(file, header)?) == PT_INTERP {
            return Err(Fault::Dynamic);
        }
    }
    // A file without segments would not run anywhere.
    if count == 0 { Err(Fault::NotElf) } else { Ok(()) }
}

fn u16_at(file: &[u8], offset: usize) -> Result<u16, Fault> {
    bytes(file, offset).map(u16::from_le_bytes)
}

fn bytes<const N: usize>(file: &[u8], offset: usize) -> Result<[u8; N], Fault> {
    let end = offset.checked_add(N).ok_or(Fault::NotElf)?;
    file.get(offset..end).and_then(|bytes| bytes.try_into().ok()).ok_or(Fault::NotElf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with program headers of these types.
    fn elf(kind: u16, machine: u16, headers: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        for header in headers {
            file.extend(header.to_le_bytes());
            file.extend([0; 52]);
        }
        file
    }

    #[test]
    fn a_static_program_of_the_right_machine_passes() {
        assert_eq!(check_static(&elf(2, 62, &[1, 1]), Arch::X86_64), Ok(()));
        // Static, position-independent programs have a dynamic section, for their own relocations.
        assert_eq!(check_static(&elf(3, 183, &[6, 1, 2]), Arch::Aarch64), Ok(()));
    }

    #[test]
    fn anything_else_is_named() {
        assert_eq!(check_static(&elf(3, 62, &[6, 3, 1]), Arch::X86_64), Err(Fault::Dynamic));
        assert_eq!(check_static(&elf(3, 62, &[6, 1]), Arch::Aarch64), Err(Fault::Machine(62)));
        assert_eq!(check_static(&elf(1, 62, &[]), Arch::X86_64), Err(Fault::NotProgram(1)));
        let mut thirty_two_bits = elf(2, 62, &[1]);
        thirty_two_bits[4] = 1;
        for file in [&b"#!/bin/sh\n"[..], b"", &thirty_two_bits, &elf(2, 62, &[])] {
            assert_eq!(check_static(file, Arch::X86_64), Err(Fault::NotElf));
        }
    }

    #[test]
    fn a_file_that_was_cut_or_points_outside_itself_is_refused() {
        let whole = elf(2, 62, &[1, 1]);
        // All but the end of the last header, which is not looked at.
        for length in 0..64 + 56 + 4 {
            assert_eq!(check_static(&whole[..length], Arch::X86_64), Err(Fault::NotElf), "{length} bytes");
        }
        let mut wild = whole;
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(check_static(&wild, Arch::X86_64), Err(Fault::NotElf));
    }
}
