//! What static binaries and VM tests need beyond the agent's toolchain, and where it comes from. No I/O.

use std::fmt;

use crate::build::Arch;

/// One thing that is needed for an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Rust's standard library.
    Target(Arch),
    /// A C compiler that links.
    Linker(Arch),
    /// glibc as a `libc.a`.
    Libc(Arch),
    /// QEMU's emulator.
    Qemu(Arch),
}

impl Tool {
    /// What static binaries for `arch` need.
    pub fn of_binaries(arch: Arch) -> [Self; 3] {
        [Self::Target(arch), Self::Linker(arch), Self::Libc(arch)]
    }

    /// What VM tests on `arch` need.
    pub fn of_guests(arch: Arch) -> [Self; 4] {
        [Self::Target(arch), Self::Linker(arch), Self::Libc(arch), Self::Qemu(arch)]
    }

    /// rustup's name for it; `None` if a package brings it.
    pub fn target(self) -> Option<&'static str> {
        if let Self::Target(arch) = self { Some(arch.triple()) } else { None }
    }

    /// Debian's package on a machine of kind `host`; `None` if rustup brings it.
    pub fn debian(self, host: Arch) -> Option<&'static str> {
        Some(match self {
            Self::Target(_) => return None,
            Self::Linker(arch) if arch == host => "gcc",
            Self::Linker(Arch::X86_64) => "gcc-x86-64-linux-gnu",
            Self::Linker(Arch::Aarch64) => "gcc-aarch64-linux-gnu",
            Self::Libc(arch) if arch == host => "libc6-dev",
            Self::Libc(Arch::X86_64) => "libc6-dev-amd64-cross",
            Self::Libc(Arch::Aarch64) => "libc6-dev-arm64-cross",
            Self::Qemu(Arch::X86_64) => "qemu-system-x86",
            Self::Qemu(Arch::Aarch64) => "qemu-system-arm",
        })
    }

    /// Fedora's package; it has no libc for cross compilers.
    pub fn fedora(self, host: Arch) -> Option<&'static str> {
        Some(match self {
            Self::Target(_) => return None,
            Self::Linker(arch) if arch == host => "gcc",
            Self::Linker(Arch::X86_64) => "gcc-x86_64-linux-gnu",
            Self::Linker(Arch::Aarch64) => "gcc-aarch64-linux-gnu",
            Self::Libc(arch) if arch == host => "glibc-static",
            Self::Libc(_) => return None,
            Self::Qemu(Arch::X86_64) => "qemu-system-x86-core",
            Self::Qemu(Arch::Aarch64) => "qemu-system-aarch64-core",
        })
    }

    /// What a person can do where there is no package that we know of.
    pub fn by_hand(self) -> String {
        match self {
            Self::Target(arch) => format!(
                "rustup target add {}; or, in the sysroot of a compiler that is not rustup's, its standard library for that \
                 target (on Debian, libstd-rust-dev of that architecture)",
                arch.triple()
            ),
            Self::Libc(arch) => {
                let name = arch.name();
                format!(
                    "a glibc with libc.a where {name}-linux-gnu-gcc looks (Fedora has none: take its sysroot from elsewhere)"
                )
            }
            Self::Linker(_) | Self::Qemu(_) => format!("your distribution's package for {self}"),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(arch) => write!(f, "Rust's standard library for {}", arch.triple()),
            Self::Linker(arch) => match arch.cross_linker() {
                Some(linker) => f.write_str(&linker),
                None => f.write_str("cc"),
            },
            Self::Libc(arch) => write!(f, "a static glibc for {arch}"),
            Self::Qemu(arch) => write!(f, "qemu-system-{arch}"),
        }
    }
}
