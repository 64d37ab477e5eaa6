//! What a program is attached by to a tracepoint with typed arguments: the id of the tracepoint's type in the kernel's BTF.
//!
//! aya looks it up by name in BTF that it has parsed. All of the kernel's takes it 20 ms and tens of MB (5.5 MB of BTF, 6.18), at a time
//! when nobody is bound yet, so it is given BTF in which nothing is described but those tracepoints, each with the id that the kernel's has.

use aya::{Btf, BtfError, Endianness};

use super::btf::{MAGIC, TRACEPOINT};

/// Typedef, of nothing.
const TYPEDEF: u32 = 8 << 24;
/// Pointer, to nothing: what is at the other ids.
const FILLER: [u32; 3] = [0, 2 << 24, 0];
const HEADER_BYTES: u32 = 24;

/// The tracepoints that there are.
#[derive(Debug, Default)]
pub struct Hooks(Vec<(String, u32)>);

impl Hooks {
    /// From names and ids.
    pub fn new<'a>(tracepoints: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut hooks: Vec<_> = tracepoints.into_iter().map(|(name, id)| (name.to_owned(), id)).collect();
        hooks.sort_by_key(|(_, id)| *id);
        Self(hooks)
    }

    /// As aya wants it.
    ///
    /// # Errors
    /// As aya gives them.
    pub fn to_btf(&self) -> Result<Btf, BtfError> {
        Btf::parse(&self.to_bytes(), Endianness::default())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut strings = vec![0];
        // Id 0 is void, and not in there.
        let mut types: Vec<[u32; 3]> = Vec::new();
        for (name, id) in &self.0 {
            types.resize((*id as usize).saturating_sub(1), FILLER);
            types.push([strings.len() as u32, TYPEDEF, 0]);
            strings.extend([TRACEPOINT.as_bytes(), name.as_bytes(), b"\0"].concat());
        }
        let types_bytes = size_of_val(types.as_slice()) as u32;
        let header = [HEADER_BYTES, 0, types_bytes, types_bytes, strings.len() as u32];
        let words = header.iter().chain(types.as_flattened()).flat_map(|word| word.to_ne_bytes());
        // Version 1, no flags.
        let magic = MAGIC.to_ne_bytes().into_iter().chain([1, 0]);
        magic.chain(words).chain(strings).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::btf, *};

    #[test]
    fn a_tracepoint_has_the_id_that_it_has_in_the_kernel() {
        let hooks = Hooks::new([("sched_switch", 10_401), ("sched_process_exit", 7)]);
        let bytes = hooks.to_bytes();
        let read = btf::Btf::parse(&bytes, &[]).unwrap();
        assert_eq!(read.tracepoints(), [("sched_process_exit", 7), ("sched_switch", 10_401)]);
        assert!(hooks.to_btf().is_ok() && Hooks::default().to_btf().is_ok());
    }
}
