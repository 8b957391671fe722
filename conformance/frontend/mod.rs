//! The front-end from end to end: every row of the feature table (A1–A57) and what a mistaken
//! command must leave as it was. One row, one test; the name begins with the row's number and
//! quotes the command as its first users type it.

mod archives;
mod attached;
mod background;
mod bad_input;
pub(crate) mod building;
mod configured;
mod contexts;
mod copying;
mod crossed;
mod doctor;
pub(crate) mod false_registry;
mod filled;
mod full;
mod halfway;
mod healthy;
mod hostile;
mod hostile_registry;
mod images;
mod images_made;
mod interactive;
pub(crate) mod kit;
mod knowing;
pub(crate) mod layouts;
mod limits;
mod lives;
mod looking;
mod manage;
mod named;
mod options;
mod outputs;
mod power;
mod pty;
mod pushing;
mod reasons;
mod registries;
mod sharing;
pub(crate) mod survive;
mod together;
mod trees;
mod unpacking;
mod volumes;
mod whiteouts;
pub(crate) mod world;

pub(crate) use kit::{
    DEADLINE, Desk, Done, Known, Place, Skip, code, ended, finish, skip, wait_for,
};
pub(crate) use pty::pty;
pub(crate) use survive::{monitor_of, strike};

/// A test of the front-end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Its name: `A1 run -ti ls lists the root of the image`.
    pub(crate) name: &'static str,
    /// The test. An error that is a [`Skip`] is no failure.
    pub(crate) run: fn(&Place) -> anyhow::Result<()>,
}

/// All of them.
pub(crate) fn tests() -> Vec<Row> {
    [
        interactive::ROWS,
        limits::ROWS,
        background::ROWS,
        manage::ROWS,
        images::ROWS,
        building::ROWS,
        contexts::ROWS,
        archives::ROWS,
        outputs::ROWS,
        hostile::ROWS,
        unpacking::ROWS,
        sharing::ROWS,
        pushing::ROWS,
        together::ROWS,
        trees::ROWS,
        whiteouts::ROWS,
        volumes::ROWS,
        named::ROWS,
        filled::ROWS,
        power::ROWS,
        survive::ROWS,
        reasons::ROWS,
        lives::ROWS,
        crossed::ROWS,
        full::ROWS,
        halfway::ROWS,
        attached::ROWS,
        options::ROWS,
        bad_input::ROWS,
        looking::ROWS,
        knowing::ROWS,
        healthy::ROWS,
        copying::ROWS,
        registries::ROWS,
        hostile_registry::ROWS,
        configured::ROWS,
        doctor::ROWS,
    ]
    .concat()
}
