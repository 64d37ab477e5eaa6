//! BPF programs that do nothing, on the two hot tracepoints: what is left when our work is taken away.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya_obj::btf::{Btf, BtfKind};

use super::fdinfo::{self, Program};
use crate::sys;

/// Name of the empty program on `sched_switch`.
pub const SWITCH: &str = "empty_switch";
/// Name of the empty program on `sched_wakeup`.
pub const WAKE: &str = "empty_wake";

/// The tracepoints' ids in the kernel's BTF. Finding them takes a tenth of a second and tens of MB, so it is done once.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    switch: u32,
    wake: u32,
}

impl Hooks {
    /// Looks them up.
    ///
    /// # Errors
    /// If the kernel has no BTF.
    pub fn find() -> Result<Self> {
        let btf = Btf::from_sys_fs().context("the kernel has no BTF")?;
        let id = |name: &str| {
            let id = btf.id_by_type_name_kind(name, BtfKind::Typedef);
            id.with_context(|| format!("the kernel's BTF has no {name}"))
        };
        Ok(Self { switch: id("btf_trace_sched_switch")?, wake: id("btf_trace_sched_wakeup")? })
    }
}

/// The programs, attached until dropped.
#[derive(Debug)]
pub struct Empty {
    _programs: [OwnedFd; 2],
    _links: [OwnedFd; 2],
}

impl Empty {
    /// Loads and attaches them.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn attach(hooks: Hooks) -> Result<Self> {
        let load = |name: &str, id| {
            sys::load_empty_program(name, id).with_context(|| format!("cannot load the program {name}"))
        };
        let programs = [load(SWITCH, hooks.switch)?, load(WAKE, hooks.wake)?];
        let attach = |program: &OwnedFd| {
            sys::attach_program(program.as_fd()).context("cannot attach an empty program")
        };
        let links = [attach(&programs[0])?, attach(&programs[1])?];
        Ok(Self { _programs: programs, _links: links })
    }

    /// Their runs so far, by id.
    ///
    /// # Errors
    /// As [`fdinfo::programs`].
    pub fn runs(&self) -> Result<BTreeMap<u32, Program>> {
        fdinfo::programs(std::process::id())
    }
}
