//! The language of Dockerfiles: its lines (`lines.rs`), what they say (`instruction.rs`), the words and
//! variables in it (`words.rs`), and what it sets in an image's configuration (`setting.rs`). A build
//! carries it out; `commit -c` and `import -c` apply single instructions.

pub(super) mod instruction;
pub(super) mod lines;
mod setting;
pub(super) mod words;

pub(super) use instruction::{Command, Instruction};
pub(super) use setting::{Setting, Settings, apply, ports_of, push, set, shell, strings, variable};
pub(super) use words::Variables;
