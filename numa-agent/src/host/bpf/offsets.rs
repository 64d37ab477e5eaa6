//! The kernel struct members that the programs read, and the constants by which they learn where those are; and the tracepoints' types.

use super::{
    btf::{Btf, BtfError},
    hooks::Hooks,
};

/// A constant of the programs: name and value.
pub type Constant = (&'static str, u32);

/// What the kernel's BTF says.
#[derive(Debug)]
pub struct Offsets {
    /// What every program needs.
    pub required: Vec<Constant>,
    /// What finds a task by its tid in a nested pid namespace.
    pub namespaces: Result<Vec<Constant>, BtfError>,
    /// What it takes to know the device behind a descriptor.
    pub devices: Result<Vec<Constant>, BtfError>,
    /// What a tap needs.
    pub tap: Result<Vec<Constant>, BtfError>,
    /// What it takes to hold a task at exec.
    pub hold: Result<Vec<Constant>, BtfError>,
    /// What can be attached to.
    pub hooks: Hooks,
}

/// Finds every member in the kernel's BTF, and those of the tracepoints `wanted` that it has.
///
/// # Errors
/// [`BtfError`] names the struct or required member that this kernel lacks.
pub fn resolve(blob: &[u8], wanted: &[&str]) -> Result<Offsets, BtfError> {
    let nested = ["pid", "upid", "pid_namespace", "idr", "xarray", "xa_node"];
    let tapped = ["files_struct", "fdtable", "file", "inode", "socket", "sock", "sock_common"];
    let held = ["signal_struct", "sigpending"];
    let always = ["task_struct", "mm_struct", "thread_info"];
    let btf = Btf::parse(blob, &[&always[..], &nested, &tapped, &held].concat())?;
    Ok(Offsets {
        required: required(&btf)?,
        namespaces: namespaces(&btf),
        devices: devices(&btf),
        tap: tap(&btf),
        hold: hold(&btf),
        hooks: Hooks::new(btf.tracepoints().iter().filter(|(name, _)| wanted.contains(name)).copied()),
    })
}

fn required(btf: &Btf<'_>) -> Result<Vec<Constant>, BtfError> {
    let task = |member: &str| btf.member("task_struct", member);
    // Renamed in 5.5 (cf25e24db61c); the old name meant the same clock.
    let start = task("start_boottime").or_else(|_| task("real_start_time"))?;
    // In task_struct itself on architectures whose thread_info had no CPU, arm64 before 5.16 among them.
    let cpu = match task("cpu") {
        Ok(cpu) => cpu.byte(),
        Err(_) => task("thread_info")?.byte() + btf.member("thread_info", "cpu")?.byte(),
    };
    // Renamed in 5.14 (2f064a59a11f), when it became 32 bits wide.
    let state = task("__state").or_else(|_| task("state"))?;
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
        ("TASK_CPUS_MASK", task("cpus_mask")?.byte()),
        ("TASK_STATE", state.byte()),
        ("TASK_IN_EXECVE", in_execve),
        ("TASK_IN_EXECVE_MASK", mask),
        ("MM_ARG_START", btf.member("mm_struct", "arg_start")?.byte()),
        ("MM_ARG_END", btf.member("mm_struct", "arg_end")?.byte()),
    ])
}

fn namespaces(btf: &Btf<'_>) -> Result<Vec<Constant>, BtfError> {
    let at = |name: &str, member: &str| Ok(btf.member(name, member)?.byte());
    Ok(vec![
        ("TASK_THREAD_PID", at("task_struct", "thread_pid")?),
        ("PID_LEVEL", at("pid", "level")?),
        ("PID_NUMBERS", at("pid", "numbers")?),
        ("UPID_NR", at("upid", "nr")?),
        ("UPID_NS", at("upid", "ns")?),
        ("UPID_SIZE", btf.size("upid")?),
        ("NS_TREE", at("pid_namespace", "idr")? + at("idr", "idr_rt")? + at("xarray", "xa_head")?),
        ("NODE_SHIFT", at("xa_node", "shift")?),
        ("NODE_SLOTS", at("xa_node", "slots")?),
    ])
}

fn files(btf: &Btf<'_>) -> Result<Vec<Constant>, BtfError> {
    let at = |name: &str, member: &str| Ok(btf.member(name, member)?.byte());
    Ok(vec![
        ("TASK_FILES", at("task_struct", "files")?),
        ("FILES_FDT", at("files_struct", "fdt")?),
        ("FDTABLE_MAX_FDS", at("fdtable", "max_fds")?),
        ("FDTABLE_FD", at("fdtable", "fd")?),
        ("FILE_INODE", at("file", "f_inode")?),
        ("INODE_MODE", at("inode", "i_mode")?),
    ])
}

fn devices(btf: &Btf<'_>) -> Result<Vec<Constant>, BtfError> {
    let mut constants = files(btf)?;
    constants.push(("INODE_RDEV", btf.member("inode", "i_rdev")?.byte()));
    Ok(constants)
}

fn tap(btf: &Btf<'_>) -> Result<Vec<Constant>, BtfError> {
    let at = |name: &str, member: &str| Ok(btf.member(name, member)?.byte());
    let common = at("sock", "__sk_common")?;
    let mut constants = files(btf)?;
    constants.extend([
        ("TASK_GROUP_LEADER", at("task_struct", "group_leader")?),
        ("FILE_PRIVATE", at("file", "private_data")?),
        ("SOCKET_SK", at("socket", "sk")?),
        ("SOCK_PROTOCOL", at("sock", "sk_protocol")?),
        ("SOCK_FAMILY", common + at("sock_common", "skc_family")?),
        ("SOCK_LOCAL_PORT", common + at("sock_common", "skc_num")?),
        ("SOCK_REMOTE_PORT", common + at("sock_common", "skc_dport")?),
    ]);
    Ok(constants)
}

fn hold(btf: &Btf<'_>) -> Result<Vec<Constant>, BtfError> {
    let at = |name: &str, member: &str| Ok(btf.member(name, member)?.byte());
    Ok(vec![
        ("TASK_PTRACE", at("task_struct", "ptrace")?),
        ("TASK_SIGNAL", at("task_struct", "signal")?),
        ("SIGNAL_TTY", at("signal_struct", "tty")?),
        ("SIGNAL_PENDING", at("signal_struct", "shared_pending")? + at("sigpending", "signal")?),
        ("SIGNAL_FLAGS", at("signal_struct", "flags")?),
        ("SIGNAL_PIDS", at("signal_struct", "pids")?),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{super::btf::tests::Builder, *};

    const STRUCT: u32 = 4;

    type Member = (&'static str, u32, u32);

    fn constants(task: &[Member]) -> Result<HashMap<&'static str, u32>, BtfError> {
        Ok(offsets(task, &[])?.required.into_iter().collect())
    }

    /// Of a kernel with those members of `task_struct`, and more structs.
    fn offsets(task: &[Member], more: &[(&str, &[Member])]) -> Result<Offsets, BtfError> {
        let mut btf = Builder::default();
        btf.composite(STRUCT, "thread_info", &[("flags", 0, 0), ("cpu", 0, 128)]); // 1
        btf.composite(STRUCT, "", &[("arg_start", 0, 2432), ("arg_end", 0, 2496)]); // 2
        btf.composite(STRUCT, "mm_struct", &[("", 2, 64)]); // 3
        let mut members = vec![
            ("state", 0, 192),
            ("cpus_mask", 0, 8960),
            ("real_parent", 0, 6400),
            ("comm", 0, 8000),
            ("mm", 0, 9600),
            ("tgid", 0, 96),
        ];
        members.extend(task);
        btf.composite(STRUCT, "task_struct", &members);
        more.iter().for_each(|(name, members)| btf.composite(STRUCT, name, members));
        resolve(&btf.blob(), &[])
    }

    #[test]
    fn old_and_new_layouts_are_understood() {
        let bit_field = 1 << 24 | 10;
        let new = [
            ("thread_info", 1, 0),
            ("pid", 0, 64),
            ("__state", 0, 128),
            ("start_boottime", 0, 640),
            ("in_execve", 0, bit_field),
        ];
        let new = constants(&new).unwrap();
        assert_eq!((new["TASK_CPU"], new["TASK_START"], new["MM_ARG_END"]), (16, 80, 320));
        assert_eq!((new["TASK_IN_EXECVE"], new["TASK_STATE"]), (1, 16));
        assert_eq!(new["TASK_IN_EXECVE_MASK"], if cfg!(target_endian = "little") { 4 } else { 0x20 });
        let old = [("cpu", 0, 512), ("pid", 0, 64), ("real_start_time", 0, 704)];
        let old = constants(&old).unwrap();
        assert_eq!((old["TASK_CPU"], old["TASK_START"], old["TASK_IN_EXECVE_MASK"]), (64, 88, 0));
        assert_eq!(old["TASK_STATE"], 24);
    }

    #[test]
    fn namespaces_are_optional() {
        let task = [("cpu", 0, 512), ("pid", 0, 64), ("start_boottime", 0, 704), ("thread_pid", 0, 768)];
        let without = offsets(&task, &[]).unwrap();
        assert_eq!(without.namespaces.unwrap_err(), BtfError::Struct("pid".into()));
        let structs: [(&str, &[Member]); 6] = [
            ("pid", &[("level", 0, 32), ("numbers", 0, 768)]),
            ("upid", &[("nr", 0, 0), ("ns", 0, 64)]),
            ("pid_namespace", &[("idr", 0, 128)]),
            ("idr", &[("idr_rt", 0, 64)]),
            ("xarray", &[("xa_head", 0, 64)]),
            ("xa_node", &[("shift", 0, 0), ("slots", 0, 320)]),
        ];
        let with = offsets(&task, &structs).unwrap().namespaces.unwrap();
        let with: HashMap<_, _> = with.into_iter().collect();
        assert_eq!((with["TASK_THREAD_PID"], with["PID_LEVEL"], with["PID_NUMBERS"]), (96, 4, 96));
        assert_eq!((with["UPID_SIZE"], with["NS_TREE"], with["NODE_SLOTS"]), (16, 32, 40));
    }

    #[test]
    fn what_a_tap_needs_is_optional() {
        let task = [
            ("cpu", 0, 512),
            ("pid", 0, 64),
            ("start_boottime", 0, 704),
            ("group_leader", 0, 768),
            ("files", 0, 832),
        ];
        let without = offsets(&task, &[]).unwrap();
        assert_eq!(without.tap.unwrap_err(), BtfError::Struct("sock".into()));
        let structs: [(&str, &[Member]); 7] = [
            ("sock", &[("__sk_common", 0, 64), ("sk_protocol", 0, 320)]),
            ("sock_common", &[("skc_dport", 0, 96), ("skc_num", 0, 112), ("skc_family", 0, 128)]),
            ("socket", &[("sk", 0, 192)]),
            ("inode", &[("i_mode", 0, 0), ("i_rdev", 0, 608)]),
            ("file", &[("f_inode", 0, 256), ("private_data", 0, 320)]),
            ("fdtable", &[("max_fds", 0, 0), ("fd", 0, 64)]),
            ("files_struct", &[("fdt", 0, 128)]),
        ];
        let with = offsets(&task, &structs).unwrap();
        let devices: HashMap<_, _> = with.devices.unwrap().into_iter().collect();
        assert_eq!((devices["FILE_INODE"], devices["INODE_RDEV"]), (32, 76));
        let with: HashMap<_, _> = with.tap.unwrap().into_iter().collect();
        assert_eq!((with["TASK_FILES"], with["FILES_FDT"], with["FILE_PRIVATE"]), (104, 16, 40));
        assert_eq!((with["SOCK_LOCAL_PORT"], with["SOCK_FAMILY"], with["SOCK_PROTOCOL"]), (22, 24, 40));
    }

    #[test]
    fn what_it_takes_to_hold_is_optional() {
        let task = [
            ("cpu", 0, 512),
            ("pid", 0, 64),
            ("start_boottime", 0, 704),
            ("ptrace", 0, 320),
            ("signal", 0, 768),
        ];
        let without = offsets(&task, &[]).unwrap();
        assert_eq!(without.hold.unwrap_err(), BtfError::Struct("signal_struct".into()));
        let structs: [(&str, &[Member]); 2] = [
            (
                "signal_struct",
                &[("shared_pending", 0, 192), ("flags", 0, 320), ("pids", 0, 2880), ("tty", 0, 3200)],
            ),
            ("sigpending", &[("list", 0, 0), ("signal", 0, 128)]),
        ];
        let with: HashMap<_, _> = offsets(&task, &structs).unwrap().hold.unwrap().into_iter().collect();
        assert_eq!((with["TASK_PTRACE"], with["SIGNAL_TTY"], with["SIGNAL_PENDING"]), (40, 400, 40));
        assert_eq!((with["SIGNAL_FLAGS"], with["SIGNAL_PIDS"]), (40, 360));
    }

    #[test]
    fn a_missing_member_is_named() {
        let error = constants(&[("thread_info", 1, 0), ("start_boottime", 0, 640)]).unwrap_err();
        assert_eq!(error.to_string(), "this kernel's struct task_struct has no member pid");
    }
}
