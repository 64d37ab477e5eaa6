//! Where a struct's members are, from the kernel's type information (BTF). A function of bytes.
//!
//! Rust programs carry no relocations for the kernel's structs (CO-RE), so the offsets are looked up here and handed to
//! the programs as constants. Format: `Documentation/bpf/btf.rst`.

use std::collections::HashMap;

/// What a BTF blob or one of its structs lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or damaged.
    #[error("not valid BTF: {0}")]
    Format(&'static str),
    /// A type whose size is not known, so that those after it cannot be found.
    #[error("BTF type of unknown kind {0}; this kernel is newer than this version of numa-agent knows")]
    Kind(u32),
    /// No such struct.
    #[error("this kernel's BTF has no struct {0}")]
    Struct(String),
    /// No such member.
    #[error("this kernel's struct {name} has no member {member}")]
    Member {
        /// The struct.
        name: String,
        /// The member.
        member: String,
    },
}

/// A member's place in a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Bits from the struct's start.
    pub bit: u32,
    /// Width in bits of a bit field; 0: no bit field.
    pub width: u32,
}

impl Member {
    /// Bytes from the struct's start.
    #[must_use]
    pub fn byte(&self) -> u32 {
        self.bit / 8
    }
}

/// What BTF begins with.
pub const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
/// What stands before a tracepoint's name in that of its type (`DEFINE_EVENT` and `BPF_TRACE_DEFN_x` of `include/trace/bpf_probe.h`).
pub const TRACEPOINT: &str = "btf_trace_";
/// Typedef, volatile, const, restrict, type tag: names and qualifiers of another type.
const KINDS_ALIAS: [u32; 5] = [8, 9, 10, 11, 18];

/// An index over a BTF blob.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`; the type with id 1 is the first.
    offsets: Vec<u32>,
    structs: HashMap<&'a [u8], u32>,
    tracepoints: Vec<(&'a str, u32)>,
}

impl<'a> Btf<'a> {
    /// Indexes the structs of that name in `blob`, and what programs can be attached to.
    ///
    /// # Errors
    /// [`BtfError`] if it is no BTF or has types of unknown size.
    pub fn parse(blob: &'a [u8], wanted: &[&str]) -> Result<Self, BtfError> {
        let magic = blob.first_chunk().map(|magic| u16::from_ne_bytes(*magic));
        if magic != Some(MAGIC) {
            return Err(BtfError::Format("wrong magic number"));
        }
        let header = |index: usize| word(blob, 4 + index * 4).map(|value| value as usize);
        let section = |offset: usize, length: usize| {
            let start = header(0)? + header(offset)?;
            blob.get(start..start.checked_add(header(length)?)?)
        };
        let types = section(1, 2).ok_or(BtfError::Format("types outside the blob"))?;
        let strings = section(3, 4).ok_or(BtfError::Format("strings outside the blob"))?;
        let mut btf =
            Self { types, strings, offsets: Vec::new(), structs: HashMap::new(), tracepoints: Vec::new() };
        btf.index(wanted)?;
        Ok(btf)
    }

    fn index(&mut self, wanted: &[&str]) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            self.offsets.push(at as u32);
            let info = word(self.types, at + 4).ok_or(BtfError::Format("a type is cut off"))?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == KIND_STRUCT {
                let name = self.name(at);
                if wanted.iter().any(|wanted| wanted.as_bytes() == name) {
                    self.structs.insert(name, self.offsets.len() as u32);
                }
            } else if kind == KIND_TYPEDEF {
                let name = self.name(at).strip_prefix(TRACEPOINT.as_bytes());
                let name = name.and_then(|name| std::str::from_utf8(name).ok());
                self.tracepoints.extend(name.map(|name| (name, self.offsets.len() as u32)));
            }
            let extra = match kind {
                1 | 14 | 17 => 4,
                2 | 7..=12 | 16 | 18 => 0,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => return Err(BtfError::Kind(kind)),
            };
            at += 12 + extra;
        }
        Ok(())
    }

    /// Where `member` of `struct name` is; members of anonymous structs and unions count as the outer struct's.
    ///
    /// # Errors
    /// [`BtfError::Struct`], [`BtfError::Member`].
    pub fn member(&self, name: &str, member: &str) -> Result<Member, BtfError> {
        let id = *self.structs.get(name.as_bytes()).ok_or_else(|| BtfError::Struct(name.to_owned()))?;
        self.find(id, member.as_bytes(), 0)
            .ok_or_else(|| BtfError::Member { name: name.to_owned(), member: member.to_owned() })
    }

    /// Size of `struct name` in bytes.
    ///
    /// # Errors
    /// [`BtfError::Struct`].
    pub fn size(&self, name: &str) -> Result<u32, BtfError> {
        let id = self.structs.get(name.as_bytes());
        let size = id.and_then(|id| word(self.types, self.resolve(*id)? + 8));
        size.ok_or_else(|| BtfError::Struct(name.to_owned()))
    }

    /// The id of the type of each tracepoint.
    #[must_use]
    pub fn tracepoints(&self) -> &[(&'a str, u32)] {
        &self.tracepoints
    }

    /// Depth-first through anonymous members. Real structs nest a few levels; the bound is for damaged blobs.
    fn find(&self, id: u32, wanted: &[u8], depth: u32) -> Option<Member> {
        const MAX_DEPTH: u32 = 16;
        let at = self.resolve(id)?;
        let info = word(self.types, at + 4)?;
        if !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) || depth > MAX_DEPTH {
            return None;
        }
        let has_bit_fields = info >> 31 == 1;
        (0..(info & 0xffff) as usize).find_map(|index| {
            let member = at + 12 + index * 12;
            let offset = word(self.types, member + 8)?;
            let (bit, width) = if has_bit_fields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            let name = self.name(member);
            if name == wanted {
                return Some(Member { bit, width });
            }
            let inner =
                name.is_empty().then(|| self.find(word(self.types, member + 4)?, wanted, depth + 1))?;
            inner.map(|inner| Member { bit: bit + inner.bit, ..inner })
        })
    }

    /// Offset of the type behind names and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..16 {
            let at = *self.offsets.get(id.checked_sub(1)? as usize)? as usize;
            if !KINDS_ALIAS.contains(&(word(self.types, at + 4)? >> 24 & 0x1f)) {
                return Some(at);
            }
            id = word(self.types, at + 8)?;
        }
        None
    }

    /// The name whose string offset stands at `at`; empty for none.
    fn name(&self, at: usize) -> &'a [u8] {
        let rest =
            word(self.types, at).and_then(|offset| self.strings.get(offset as usize..)).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds small blobs.
    #[derive(Default)]
    pub struct Builder {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn string(&mut self, text: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(text.bytes().chain([0]));
            at
        }

        pub fn raw(&mut self, name: &str, info: u32, rest: &[u32]) {
            let name = self.string(name);
            self.types.extend([name, info]);
            self.types.extend(rest);
        }

        /// Members as (name, type id, bits).
        pub fn composite(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) {
            let bit_fields = members.iter().any(|(_, _, offset)| *offset > 0xff_ffff);
            let size = members.iter().map(|(_, _, offset)| ((offset & 0xff_ffff) / 64 + 1) * 8).max();
            let info = kind << 24 | u32::from(bit_fields) << 31 | members.len() as u32;
            self.raw(name, info, &[size.unwrap_or(0)]);
            for (name, id, offset) in members {
                let name = self.string(name);
                self.types.extend([name, *id, *offset]);
            }
        }

        pub fn blob(&self) -> Vec<u8> {
            let mut blob = Vec::from(MAGIC.to_ne_bytes());
            blob.extend([1, 0]);
            let lengths =
                [24, 0, self.types.len() as u32 * 4, self.types.len() as u32 * 4, self.strings.len() as u32];
            blob.extend(lengths.iter().chain(&self.types).flat_map(|word| word.to_ne_bytes()));
            blob.extend(&self.strings);
            blob
        }
    }

    #[test]
    fn members_are_found_through_anonymous_ones_and_behind_all_kinds() {
        let mut btf = Builder::default();
        btf.raw("int", 1 << 24, &[4, 32]); // 1
        btf.raw("", 3 << 24, &[0, 1, 1, 4]); // 2: array
        btf.raw("e", 6 << 24 | 2, &[4, 0, 0, 0, 1]); // 3: enum of two
        btf.raw("", 13 << 24 | 1, &[0, 0, 1]); // 4: function prototype
        btf.composite(KIND_UNION, "", &[("inner", 1, 32)]); // 5
        btf.raw("", 10 << 24, &[5]); // 6: const of it
        btf.composite(KIND_STRUCT, "task", &[("a", 1, 0), ("", 6, 64), ("flag", 1, 1 << 24 | 131)]); // 7
        let blob = btf.blob();
        let btf = Btf::parse(&blob, &["task"]).unwrap();
        assert_eq!(btf.member("task", "inner"), Ok(Member { bit: 96, width: 0 }));
        assert_eq!(btf.member("task", "flag"), Ok(Member { bit: 131, width: 1 }));
        let missing = BtfError::Member { name: "task".into(), member: "b".into() };
        assert_eq!(btf.member("task", "b"), Err(missing));
        assert_eq!(btf.size("task"), Ok(24));
        assert_eq!(btf.member("mm", "a"), Err(BtfError::Struct("mm".into())));
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        assert_eq!(Btf::parse(b"\x7fELF", &[]).unwrap_err(), BtfError::Format("wrong magic number"));
        let mut btf = Builder::default();
        btf.raw("", 31 << 24, &[0]);
        assert_eq!(Btf::parse(&btf.blob(), &[]).unwrap_err(), BtfError::Kind(31));
        let mut cut = btf.blob();
        cut.truncate(30);
        assert!(matches!(Btf::parse(&cut, &[]), Err(BtfError::Format(_))));
    }

    proptest! {
        #[test]
        fn no_blob_makes_it_panic(words in proptest::collection::vec(any::<u32>(), 0..40), small in 0u32..64) {
            let mut btf = Builder { types: words.clone(), strings: b"\0task\0".to_vec() };
            if let Some(first) = btf.types.first_mut() {
                *first = 1;
            }
            btf.types.iter_mut().skip(1).step_by(3).for_each(|word| *word = KIND_STRUCT << 24 | (*word & small));
            let blob = btf.blob();
            if let Ok(btf) = Btf::parse(&blob, &["task"]) {
                let _ = btf.member("task", "nothing");
            }
        }
    }
}
