//! A function's program, of whichever machine type, and its machines. Used by the watchdog, which does not care; each type
//! is in a module of its own. It adds nothing to what they do.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
    time::Instant,
};

use crate::{
    Crash, ElfError, Hypervisor, Limits, LoadError, Machine, MachineConfig, Request, Response, Services, Template,
    TemplateKey, Unikernel, Used,
    solo5::{
        self, CommandMachine, Disk, DiskError, Image, ImageError, Target, UsedCommand,
        server::{self, Serve, Server, ServerMachine, UsedServer},
    },
};

/// A program that can be loaded.
#[derive(Clone, Debug)]
pub enum Program {
    /// A unikernel of the guest library.
    Native(Unikernel),
    /// A unikernel of Solo5's, for its hvt tender, that is given a command line and prints its answer.
    Solo5(Image),
    /// One that serves HTTP by itself.
    Solo5Server(Server),
}

/// Why a file is no program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is no unikernel of the guest library.
    #[error(transparent)]
    Native(#[from] ElfError),
    /// It is to serve by itself, and cannot.
    #[error(
        "it is a native unikernel, whose requests come by the guest library; only Solo5's are servers by themselves (dev.kernlet.solo5.mode)"
    )]
    NoServer,
    /// It is to serve by itself, and has no network or several.
    #[error("it is to serve by itself (dev.kernlet.solo5.mode), which takes one network device; it declares {count}")]
    NetworkDevices {
        /// How many it declares.
        count: usize,
    },
    /// It is one of Solo5's, and not right.
    #[error("it is a Solo5 unikernel that cannot run: {0}")]
    Solo5(#[from] ImageError),
}

impl Program {
    /// Reads a program's file. Solo5's say in a note that they are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProgramError> {
        if solo5::target_of(bytes).is_some() {
            return Ok(Self::Solo5(Image::parse(Arc::from(bytes), Target::Hvt)?));
        }
        Ok(Self::Native(Unikernel::parse(bytes)?))
    }

    /// The same unikernel as one that serves HTTP by itself, where `serve` says.
    ///
    /// # Errors
    /// It is none of Solo5's, or declares another number of network devices than one.
    pub fn into_server(self, serve: Serve) -> Result<Self, ProgramError> {
        match self {
            Self::Native(_) => Err(ProgramError::NoServer),
            Self::Solo5(image) | Self::Solo5Server(Server { image, .. }) => {
                let server = Server { image, serve };
                let count = server.network_devices();
                if count == 1 { Ok(Self::Solo5Server(server)) } else { Err(ProgramError::NetworkDevices { count }) }
            }
        }
    }

    /// The program with these block devices, of which every machine has its own.
    ///
    /// # Errors
    /// It has no use for them, or others.
    pub fn with_disks(self, disks: Vec<(String, Disk)>) -> Result<Self, DiskError> {
        match self {
            Self::Native(_) if disks.is_empty() => Ok(self),
            Self::Native(_) => Err(DiskError::NoDevices),
            Self::Solo5(image) => Ok(Self::Solo5(image.with_disks(disks)?)),
            Self::Solo5Server(Server { image, serve }) => {
                Ok(Self::Solo5Server(Server { image: image.with_disks(disks)?, serve }))
            }
        }
    }

    /// The native unikernel, if it is one.
    #[must_use]
    pub fn native(&self) -> Option<&Unikernel> {
        match self {
            Self::Native(unikernel) => Some(unikernel),
            Self::Solo5(_) | Self::Solo5Server(_) => None,
        }
    }

    /// The largest request body that its machines can take, whatever their limits say.
    #[must_use]
    pub fn request_max(&self, environment: &[(String, String)]) -> u64 {
        match self {
            Self::Native(_) | Self::Solo5Server(_) => u64::MAX,
            Self::Solo5(_) => solo5::body_max(environment),
        }
    }
}

/// The clean state of a function's machines. Cheap to clone.
#[derive(Clone, Debug)]
pub enum ProgramTemplate {
    /// Of a native unikernel.
    Native(Template),
    /// Of one of Solo5's.
    Solo5(solo5::Template),
    /// Of one of Solo5's that serves.
    Solo5Server(server::Template),
}

/// A machine that waits for a request.
#[derive(Debug)]
pub enum ProgramMachine {
    /// Of a native unikernel.
    Native(Machine),
    /// Of one of Solo5's.
    Solo5(CommandMachine),
    /// Of one of Solo5's that serves.
    Solo5Server(ServerMachine),
}

/// A machine that has answered one.
#[derive(Debug)]
pub enum ProgramUsed {
    /// Of a native unikernel.
    Native(Used),
    /// Of one of Solo5's.
    Solo5(UsedCommand),
    /// Of one of Solo5's that serves.
    Solo5Server(UsedServer),
}

impl ProgramTemplate {
    /// Boots a machine up to where it waits for its first request; the machine is the template's first.
    ///
    /// # Errors
    /// The machine cannot be made, or the guest ended or overran `deadline` before.
    pub fn boot(
        hypervisor: &Hypervisor,
        program: &Program,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<(Self, ProgramMachine), Box<Crash>> {
        Ok(match program {
            Program::Native(unikernel) => {
                let (template, machine) = Template::boot(hypervisor, unikernel, config, services, deadline)?;
                (Self::Native(template), ProgramMachine::Native(machine))
            }
            Program::Solo5(image) => {
                let (template, machine) = solo5::Template::boot(hypervisor, image, config, services, deadline)?;
                (Self::Solo5(template), ProgramMachine::Solo5(machine))
            }
            Program::Solo5Server(server) => {
                let (template, machine) = server::Template::boot(hypervisor, server, config, services, deadline)?;
                (Self::Solo5Server(template), ProgramMachine::Solo5Server(machine))
            }
        })
    }

    /// A template that an earlier process saved under this key, for [`Self::machine`] to make the first one of.
    ///
    /// # Errors
    /// The file is of something else, is damaged, or cannot be put into memory; then [`Self::boot`] is the way.
    pub fn load(
        file: impl Read,
        key: &TemplateKey,
        hypervisor: &Hypervisor,
        program: &Program,
        config: &MachineConfig,
    ) -> Result<Self, LoadError> {
        Ok(match program {
            Program::Native(unikernel) => Self::Native(Template::load(file, key, hypervisor, unikernel, config)?),
            Program::Solo5(image) => Self::Solo5(solo5::Template::load(file, key, hypervisor, image, config)?),
            Program::Solo5Server(server) => {
                Self::Solo5Server(server::Template::load(file, key, hypervisor, server, config)?)
            }
        })
    }

    /// Writes the template to an empty file, for [`Self::load`]. Until it is there as a whole, the file is none. What the
    /// function keeps in memory is in it: the file should be its owner's alone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &File, key: &TemplateKey) -> io::Result<()> {
        match self {
            Self::Native(template) => template.save(file, key),
            Self::Solo5(template) => template.save(file, key),
            Self::Solo5Server(template) => template.save(file, key),
        }
    }

    /// Another machine, in exactly the template's state.
    ///
    /// # Errors
    /// KVM or the host cannot give another machine.
    pub fn machine(&self, hypervisor: &Hypervisor, services: Services) -> Result<ProgramMachine, Box<Crash>> {
        Ok(match self {
            Self::Native(template) => ProgramMachine::Native(template.machine(hypervisor, services)?),
            Self::Solo5(template) => ProgramMachine::Solo5(template.machine(hypervisor, services)?),
            Self::Solo5Server(template) => ProgramMachine::Solo5Server(template.machine(hypervisor, services)?),
        })
    }
}

impl ProgramMachine {
    /// The machine, under these limits from now on.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        match self {
            Self::Native(machine) => Self::Native(machine.with_limits(limits)),
            Self::Solo5(machine) => Self::Solo5(machine.with_limits(limits)),
            Self::Solo5Server(machine) => Self::Solo5Server(machine.with_limits(limits)),
        }
    }

    /// Lets the function answer a request, in place of what `response` holds. A machine that crashes is consumed.
    ///
    /// # Errors
    /// How the guest ended; `response` then holds anything.
    pub fn invoke_into(
        self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<ProgramUsed, Box<Crash>> {
        Ok(match self {
            Self::Native(machine) => ProgramUsed::Native(machine.invoke_into(request, deadline, response)?),
            Self::Solo5(machine) => ProgramUsed::Solo5(machine.invoke_into(request, deadline, response)?),
            Self::Solo5Server(machine) => ProgramUsed::Solo5Server(machine.invoke_into(request, deadline, response)?),
        })
    }

    /// Compares the machine with its template, bit for bit.
    ///
    /// # Errors
    /// Where they differ.
    pub fn audit(&mut self) -> Result<(), String> {
        match self {
            Self::Native(machine) => machine.audit(),
            Self::Solo5(machine) => machine.audit(),
            Self::Solo5Server(machine) => machine.audit(),
        }
    }
}

impl ProgramUsed {
    /// Makes the machine equal to its template again.
    ///
    /// # Errors
    /// The machine is lost because KVM or the host did not do its part.
    pub fn rewind(self) -> Result<ProgramMachine, Box<Crash>> {
        Ok(match self {
            Self::Native(used) => ProgramMachine::Native(used.rewind()?),
            Self::Solo5(used) => ProgramMachine::Solo5(used.rewind()?),
            Self::Solo5Server(used) => ProgramMachine::Solo5Server(used.rewind()?),
        })
    }

    /// Leaves the machine as the request left it. A guest that has halted has nothing to go on with: it is rewound. One
    /// that serves goes on where it serves all requests, and is rewound elsewhere.
    ///
    /// # Errors
    /// As [`Self::rewind`].
    pub fn keep(self) -> Result<ProgramMachine, Box<Crash>> {
        Ok(match self {
            Self::Native(used) => ProgramMachine::Native(used.keep()),
            Self::Solo5(used) => ProgramMachine::Solo5(used.rewind()?),
            Self::Solo5Server(used) => ProgramMachine::Solo5Server(used.rewind()?),
        })
    }
}
