//! What a machine is recognised by: a closed list of components, and how much each weighs.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! components {
    ($($(#[$doc:meta])* $variant:ident $name:literal $class:ident $weight:literal $root:literal;)+) => {
        /// One thing a machine is recognised by. Names are stable: they may be added, never renamed.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Component { $($(#[$doc])* $variant),+ }

        impl Component {
            /// Every component there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name, as it stands in records, evidence, audit and on the screen.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What kind of thing it is.
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),+ }
            }

            /// Whether Linux lets only root read it.
            pub fn needs_root(self) -> bool {
                match self { $(Self::$variant => $root),+ }
            }

            fn weight_default(self) -> u16 {
                match self { $(Self::$variant => $weight),+ }
            }
        }
    };
}

components! {
    /// UUID of the board (SMBIOS type 1).
    ProductUuid "dmi.product_uuid" Board 20 true;
    /// Serial number of the board (SMBIOS type 2).
    BoardSerial "dmi.board_serial" Board 15 true;
    /// Serial number of the machine (SMBIOS type 1).
    ProductSerial "dmi.product_serial" Board 10 true;
    /// Vendor, family, model and stepping of the first processor.
    Cpu "cpu" Hardware 10 false;
    /// WWN or serial number of the disks under the root file system.
    RootDisk "disk.root" Hardware 12 false;
    /// Permanent MAC addresses of physical network interfaces, a set.
    NicMacs "nic.macs" Hardware 10 false;
    /// Memory, as the power of two that it fits in.
    Memory "memory" Hardware 3 false;
    /// systemd's machine ID, as an HMAC made for this use.
    MachineId "machine_id" Install 8 false;
    /// UUID of the root file system.
    RootFs "fs.root" Install 4 false;
    /// The public SSH host keys.
    SshHostKeys "ssh.host_keys" Install 3 false;
    /// Name and version of the distribution.
    Os "os" Software 2 false;
    /// Release of the kernel.
    Kernel "kernel" Software 2 false;
    /// Architecture of the kernel.
    Arch "arch" Software 1 false;
    /// Which kind of container this is, or `none`. Observed only.
    Container "container" Observed 0 false;
    /// Whether a hypervisor shows itself. Observed only.
    Virtual "virtual" Observed 0 false;
}

impl Component {
    /// The component with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.name() == name)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of thing a component is; the kinds change on different occasions.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Changes with the main board.
    Board,
    /// Changes with parts.
    Hardware,
    /// Changes when the machine is installed anew.
    Install,
    /// Changes with updates.
    Software,
    /// Weighs nothing; told for policy and for the eye.
    Observed,
}

impl Class {
    /// The name shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Board => "board",
            Self::Hardware => "hardware",
            Self::Install => "install",
            Self::Software => "software",
            Self::Observed => "observed",
        }
    }
}

/// How much each component weighs. Only proportions matter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Weights(BTreeMap<Component, u16>);

impl Weights {
    /// The default weights with those of `changed` put in their place.
    pub fn with(changed: impl IntoIterator<Item = (Component, u16)>) -> Self {
        let mut weights = Self::default();
        weights.0.extend(changed);
        weights
    }

    /// The weight of one component.
    pub fn of(&self, component: Component) -> u16 {
        self.0.get(&component).copied().unwrap_or(0)
    }

    /// The weight of several together.
    pub fn sum<'a>(&self, components: impl IntoIterator<Item = &'a Component>) -> u32 {
        components.into_iter().map(|c| u32::from(self.of(*c))).sum()
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self(Component::ALL.iter().map(|c| (*c, c.weight_default())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_a_name_of_its_own_and_reads_back() {
        for component in Component::ALL {
            assert_eq!(Component::from_name(component.name()), Some(*component));
        }
        assert_eq!(Component::from_name("hostname"), None);
    }

    #[test]
    fn each_class_is_shown_by_its_name() {
        let classes = [Class::Board, Class::Hardware, Class::Install, Class::Software, Class::Observed];
        assert_eq!(classes.map(Class::name), ["board", "hardware", "install", "software", "observed"]);
    }

    #[test]
    fn the_default_weights_are_a_hundred_in_all() {
        let weights = Weights::default();
        let class = |class| weights.sum(Component::ALL.iter().filter(|c| c.class() == class));
        assert_eq!(class(Class::Board), 45);
        assert_eq!(class(Class::Hardware), 35);
        assert_eq!(class(Class::Install), 15);
        assert_eq!(class(Class::Software), 5);
        assert_eq!(class(Class::Observed), 0);
        assert_eq!(Weights::with([(Component::Cpu, 1)]).sum(Component::ALL), 91);
    }
}
