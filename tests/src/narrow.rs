//! A 32-bit program, written as the bytes that it is: a compiler for it is not on every machine.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Reads a byte from standard input, writes it to standard output, and so on until the end of the input.
const CODE: [u8; 51] = [
    0xb8, 3, 0, 0, 0, // mov eax, read
    0x31, 0xdb, // xor ebx, ebx
    0x89, 0xe1, // mov ecx, esp
    0xba, 1, 0, 0, 0, // mov edx, 1
    0xcd, 0x80, // int 0x80
    0x83, 0xf8, 0x01, // cmp eax, 1
    0x75, 21, // jne to the end
    0xb8, 4, 0, 0, 0, // mov eax, write
    0xbb, 1, 0, 0, 0, // mov ebx, 1
    0x89, 0xe1, // mov ecx, esp
    0xba, 1, 0, 0, 0, // mov edx, 1
    0xcd, 0x80, // int 0x80
    0xeb, 0xd6, // jmp to the beginning
    0xb8, 1, 0, 0, 0, // mov eax, exit
    0x31, 0xdb, // xor ebx, ebx
    0xcd, 0x80, // int 0x80
];

/// Where it is loaded.
const BASE: u32 = 0x0804_8000;
/// Bytes of an ELF header and of a program header (elf(5)), of 32 bits.
const HEADERS: [u16; 2] = [52, 32];

/// Writes it into `dir`; its path.
///
/// # Errors
/// If it cannot be written.
pub fn write(dir: &Path) -> io::Result<PathBuf> {
    let [elf_bytes, program_bytes] = HEADERS;
    let entry = u32::from(elf_bytes + program_bytes);
    let size = entry + CODE.len() as u32;
    // 32 bits, little-endian, version 1.
    let mut program = b"\x7fELF\x01\x01\x01".to_vec();
    program.resize(16, 0);
    // An executable for the 80386.
    [2u16, 3].iter().for_each(|half| program.extend(half.to_le_bytes()));
    let words = [1, BASE + entry, u32::from(elf_bytes), 0, 0];
    words.iter().for_each(|word| program.extend(word.to_le_bytes()));
    [elf_bytes, program_bytes, 1, 0, 0, 0].iter().for_each(|half| program.extend(half.to_le_bytes()));
    // All of it is loaded, to be read and executed.
    let segment = [1, 0, BASE, BASE, size, size, 5, 4096];
    segment.iter().for_each(|word: &u32| program.extend(word.to_le_bytes()));
    program.extend(CODE);
    let path = dir.join("narrow");
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
