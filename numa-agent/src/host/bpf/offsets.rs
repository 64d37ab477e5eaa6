//! The kernel struct members that the programs read, and the constants by which they learn where those are.

use super::btf::{Btf, BtfError};

/// A constant of the programs: name and value.
pub type Constant = (&'static str, u32);

/// Finds every member in the kernel's BTF.
///
/// # Errors
/// [`BtfError`] names the struct or member that this kernel lacks.
pub fn resolve(blob: &[u8]) -> Result<Vec<Constant>, BtfError> {
    let btf = Btf::parse(blob, &["task_struct", "mm_struct", "thread_info"])?;
    let task = |member: &str| btf.member("task_struct", member);
    // Renamed in 5.5 (cf25e24db61c); the old name meant the same clock.
    let start = task("start_boottime").or_else(|_| task("real_start_time"))?;
    // In task_struct itself on architectures whose thread_info had no CPU, arm64 before 5.16 among them.
    let cpu = match task("cpu") {
        Ok(cpu) => cpu.byte(),
        Err(_) => task("thread_info")?.byte() + btf.member("thread_info", "cpu")?.byte(),
    };
    // Only spares an event: optional.
    let (in_execve, mask) = task("in_execve").map_or((0, 0), |member| {
        let bit = member.bit % 8;
        (member.byte(), if cfg!(target_endian = "little") { 1 << bit } else { 0x80 >> bit })
    });
    Ok(vec![
        ("TASK_PID", task("pid")?.byte()),
        ("TASK_TGID", task("tgid")?.byte()),
        ("TASK_START", start.byte()),
        ("TASK_REAL_PARENT", task("real_parent")?.byte()),
        ("TASK_COMM", task("comm")?.byte()),
        ("TASK_MM", task("mm")?.byte()),
        ("TASK_CPU", cpu),
        ("TASK_IN_EXECVE", in_execve),
        ("TASK_IN_EXECVE_MASK", mask),
        ("MM_ARG_START", btf.member("mm_struct", "arg_start")?.byte()),
        ("MM_ARG_END", btf.member("mm_struct", "arg_end")?.byte()),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{super::btf::tests::Builder, *};

    const STRUCT: u32 = 4;

    fn constants(task: &[(&str, u32, u32)]) -> Result<HashMap<&'static str, u32>, BtfError> {
        let mut btf = Builder::default();
        btf.composite(STRUCT, "thread_info", &[("flags", 0, 0), ("cpu", 0, 128)]); // 1
        btf.composite(STRUCT, "", &[("arg_start", 0, 2432), ("arg_end", 0, 2496)]); // 2
        btf.composite(STRUCT, "mm_struct", &[("", 2, 64)]); // 3
        let mut members = vec![("real_parent", 0, 6400), ("comm", 0, 8000), ("mm", 0, 9600), ("tgid", 0, 96)];
        members.extend(task);
        btf.composite(STRUCT, "task_struct", &members);
        resolve(&btf.blob()).map(|constants| constants.into_iter().collect())
    }

    #[test]
    fn old_and_new_layouts_are_understood() {
        let bit_field = 1 << 24 | 10;
        let new =
            [("thread_info", 1, 0), ("pid", 0, 64), ("start_boottime", 0, 640), ("in_execve", 0, bit_field)];
        let new = constants(&new).unwrap();
        assert_eq!((new["TASK_CPU"], new["TASK_START"], new["MM_ARG_END"]), (16, 80, 320));
        assert_eq!(new["TASK_IN_EXECVE"], 1);
        assert_eq!(new["TASK_IN_EXECVE_MASK"], if cfg!(target_endian = "little") { 4 } else { 0x20 });
        let old = [("cpu", 0, 512), ("pid", 0, 64), ("real_start_time", 0, 704)];
        let old = constants(&old).unwrap();
        assert_eq!((old["TASK_CPU"], old["TASK_START"], old["TASK_IN_EXECVE_MASK"]), (64, 88, 0));
    }

    #[test]
    fn a_missing_member_is_named() {
        let error = constants(&[("thread_info", 1, 0), ("start_boottime", 0, 640)]).unwrap_err();
        assert_eq!(error.to_string(), "this kernel's struct task_struct has no member pid");
    }
}
