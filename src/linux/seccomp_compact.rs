//! Makes a seccomp program shorter that says the same of every call.
//!
//! libseccomp compares with each number that the profile names. Most numbers beside each other have
//! the same answer, so that a search among ranges takes a fraction of the instructions; and the kernel
//! needs time for each when it checks the program, translates it, and tries it out on every number
//! (kernel/seccomp.c, `seccomp_cache_prepare`).
//!
//! The program itself is asked: it is followed for one architecture and a range of numbers at a time,
//! which is divided where a comparison tells its numbers apart. So the ranges are exact, whatever
//! made the program. Where it begins to look at anything else (arguments), it stays as it is.

use super::{
    ARCHITECTURE, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, NUMBER, RETURN,
    instruction,
};
use std::collections::{BTreeSet, HashMap};

// linux/bpf_common.h
const JUMP_SET: u16 = 0x45;
const AND: u16 = 0x54;

/// `struct sock_filter` (linux/filter.h)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Instruction {
    code: u16,
    when_true: u8,
    when_false: u8,
    value: u32,
}

/// What a program says of a call whose architecture and number are known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Answer {
    /// This action.
    Action(u32),
    /// It depends on more: the part of the program that decides.
    Part(Vec<Instruction>),
}

/// Numbers with the same answer.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    answer: Answer,
}

/// A program that says the same as `program` (an array of `struct sock_filter`) of every call, and is
/// shorter; `program` itself where that is not found, or where it is of a kind that is not understood.
pub(super) fn compact(program: Vec<u8>) -> Vec<u8> {
    let shorter = || {
        let original = instructions(&program)?;
        let new = Writer::default().write(&Meaning::of(&original)?)?;
        (new.len() < original.len()).then_some(new)
    };
    match shorter() {
        Some(new) => new
            .iter()
            .flat_map(|i| instruction(i.code, i.when_true, i.when_false, i.value))
            .collect(),
        None => program,
    }
}

fn instructions(program: &[u8]) -> Option<Vec<Instruction>> {
    let (list, rest) = program.as_chunks::<8>();
    let one = |i: &[u8; 8]| Instruction {
        code: u16::from_ne_bytes([i[0], i[1]]),
        when_true: i[2],
        when_false: i[3],
        value: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
    };
    rest.is_empty().then(|| list.iter().map(one).collect())
}

/// What a program says, without gaps: the ranges of the architectures that it knows, in the order in
/// which it asks for them, and those of all others.
#[derive(Debug)]
struct Meaning {
    known: Vec<(u32, Vec<Range>)>,
    others: Vec<Range>,
}

impl Meaning {
    /// `None`: the program is of a kind that is not understood.
    fn of(program: &[Instruction]) -> Option<Meaning> {
        let mut met = Vec::new();
        let others = ranges(program, None, &mut met)?;
        let mut known = Vec::new();
        // More may be met on the way.
        while let Some(arch) = met.get(known.len()).copied() {
            known.push((arch, ranges(program, Some(arch), &mut met)?));
        }
        Some(Meaning { known, others })
    }
}

/// The answers to all numbers of an architecture; `None` is one that the program does not know. The
/// architectures that it compares with are added to `met`.
fn ranges(program: &[Instruction], arch: Option<u32>, met: &mut Vec<u32>) -> Option<Vec<Range>> {
    let mut found: Vec<Range> = Vec::new();
    // Where the program is at, what it holds, and the numbers for which it gets there; the lowest
    // numbers at the end.
    let mut paths = vec![(0, Held::Nothing, 0, u32::MAX)];
    while let Some((at, held, first, last)) = paths.pop() {
        match follow(program, at, held, arch, met)? {
            Stop::Answer(answer) => match found.last_mut() {
                Some(before) if before.answer == answer => before.last = last,
                _ => found.push(Range {
                    first,
                    last,
                    answer,
                }),
            },
            Stop::Comparison(at) => {
                let i = program.get(at)?;
                for (is_true, first, last) in divide(*i, first, last)?.into_iter().rev() {
                    let step = if is_true { i.when_true } else { i.when_false };
                    paths.push((at + 1 + usize::from(step), Held::Number, first, last));
                }
            }
        }
    }
    Some(found)
}

/// What the accumulator holds.
#[derive(Clone, Copy)]
enum Held {
    Nothing,
    Number,
    Architecture,
}

enum Stop {
    Answer(Answer),
    /// At the comparison of the number that is there.
    Comparison(usize),
}

/// Follows the program as far as the architecture decides.
fn follow(
    program: &[Instruction],
    mut at: usize,
    mut held: Held,
    arch: Option<u32>,
    met: &mut Vec<u32>,
) -> Option<Stop> {
    loop {
        let i = program.get(at)?;
        // Every jump goes forwards, so that this ends.
        let mut jump = |steps: u32| at += 1 + steps as usize;
        match (i.code, held) {
            (RETURN, _) => return Some(Stop::Answer(Answer::Action(i.value))),
            (JUMP, _) => jump(i.value),
            (LOAD, _) => {
                held = match i.value {
                    NUMBER => Held::Number,
                    ARCHITECTURE => Held::Architecture,
                    // It holds nothing but what it loads now, so that it can begin here.
                    _ => return part(program, at).map(|part| Stop::Answer(Answer::Part(part))),
                };
                jump(0);
            }
            (JUMP_EQUAL, Held::Architecture) => {
                if !met.contains(&i.value) {
                    met.push(i.value);
                }
                let is_true = arch == Some(i.value);
                jump(u32::from(if is_true { i.when_true } else { i.when_false }));
            }
            (_, Held::Number) => return Some(Stop::Comparison(at)),
            _ => return None,
        }
    }
}

/// What a comparison says of the numbers of a range, in ascending order.
fn divide(i: Instruction, first: u32, last: u32) -> Option<Vec<(bool, u32, u32)>> {
    let (value, end) = (u64::from(i.value), 1 << 32);
    let pieces = match i.code {
        JUMP_EQUAL => vec![
            (false, 0, value),
            (true, value, value + 1),
            (false, value + 1, end),
        ],
        JUMP_GREATER => vec![(false, 0, value + 1), (true, value + 1, end)],
        JUMP_GREATER_EQUAL => vec![(false, 0, value), (true, value, end)],
        _ => return None,
    };
    let within = |(is_true, from, to): (bool, u64, u64)| {
        let (from, to) = (from.max(first.into()), to.min(u64::from(last) + 1));
        // Both fit: they are within the range.
        (from < to).then(|| (is_true, from as u32, (to - 1) as u32))
    };
    Some(pieces.into_iter().filter_map(within).collect())
}

/// The instructions that can be reached from `start`, in their order.
fn part(program: &[Instruction], start: usize) -> Option<Vec<Instruction>> {
    let mut places = BTreeSet::from([start]);
    let mut next = Some(start);
    while let Some(at) = next {
        let i = program.get(at)?;
        match i.code {
            RETURN => {}
            LOAD | AND => {
                places.insert(at + 1);
            }
            JUMP => {
                places.insert(at + 1 + i.value as usize);
            }
            JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL | JUMP_SET => {
                places.insert(at + 1 + usize::from(i.when_true));
                places.insert(at + 1 + usize::from(i.when_false));
            }
            _ => return None,
        }
        next = places.range(at + 1..).next().copied();
    }
    // How many of them are skipped by a jump that skipped so many.
    let steps = |at: usize, steps: usize| places.range(at + 1..at + 1 + steps).count();
    let moved = |at: &usize| {
        let mut i = program[*at];
        match i.code {
            JUMP => i.value = steps(*at, i.value as usize) as u32,
            LOAD | AND | RETURN => {}
            _ => {
                // No more than before.
                i.when_true = steps(*at, i.when_true.into()) as u8;
                i.when_false = steps(*at, i.when_false.into()) as u8;
            }
        }
        i
    };
    Some(places.iter().map(moved).collect())
}

/// How many numbers are picked out of a range one after the other before the search divides it: each
/// takes one instruction there, and two as a range.
const MOST_HOLES: usize = 3;
/// How far a comparison jumps, but for one instruction that may yet come in between.
const REACH: usize = u8::MAX as usize - 1;

/// Writes a program from its end, as jumps go forwards: what they go to is there already.
#[derive(Default)]
struct Writer {
    /// The last instruction first. A place is an index in it.
    list: Vec<Instruction>,
    /// Where an answer was written last.
    answers: HashMap<Answer, usize>,
}

impl Writer {
    fn write(mut self, meaning: &Meaning) -> Option<Vec<Instruction>> {
        let mut next = self.search(&meaning.others);
        for (arch, ranges) in meaning.known.iter().rev() {
            let block = self.search(ranges);
            next = self.compare(JUMP_EQUAL, *arch, block, next);
        }
        // Without any there is nothing that comes first.
        if meaning.known.is_empty() {
            return None;
        }
        self.push(LOAD, ARCHITECTURE);
        self.list.reverse();
        Some(self.list)
    }

    fn push(&mut self, code: u16, value: u32) -> usize {
        self.list.push(Instruction {
            code,
            when_true: 0,
            when_false: 0,
            value,
        });
        self.list.len() - 1
    }

    /// How many instructions a jump that is written now would skip.
    fn steps(&self, place: usize) -> usize {
        self.list.len() - 1 - place
    }

    /// The number is loaded, and its range looked for.
    fn search(&mut self, ranges: &[Range]) -> usize {
        if let [one] = ranges {
            return self.answer(&one.answer);
        }
        let top = self.tree(&groups(ranges));
        if self.steps(top) > 0 {
            self.push(JUMP, self.steps(top) as u32);
        }
        self.push(LOAD, NUMBER)
    }

    fn tree(&mut self, groups: &[&[Range]]) -> usize {
        if let [group] = groups {
            return self.group(group);
        }
        let (low, high) = groups.split_at(middle(groups));
        let no = self.tree(low);
        let yes = self.tree(high);
        self.compare(JUMP_GREATER_EQUAL, high[0][0].first, yes, no)
    }

    /// A range, and the single numbers that are picked out of it.
    fn group(&mut self, group: &[Range]) -> usize {
        let mut top = self.answer(&group[0].answer);
        for hole in group.iter().skip(1).step_by(2) {
            let other = self.answer(&hole.answer);
            top = self.compare(JUMP_EQUAL, hole.first, other, top);
        }
        top
    }

    fn compare(&mut self, code: u16, value: u32, yes: usize, no: usize) -> usize {
        let (yes, no) = (self.near(yes), self.near(no));
        let place = self.push(code, value);
        // At most REACH and the one that bringing `no` nearer may have added.
        let steps = |to: usize| (place - 1 - to) as u8;
        self.list[place].when_true = steps(yes);
        self.list[place].when_false = steps(no);
        place
    }

    fn answer(&mut self, answer: &Answer) -> usize {
        if let Some(place) = self.answers.get(answer) {
            return *place;
        }
        let place = match answer {
            Answer::Action(action) => self.push(RETURN, *action),
            Answer::Part(part) => {
                self.list.extend(part.iter().rev());
                self.list.len() - 1
            }
        };
        self.answers.insert(answer.clone(), place);
        place
    }

    /// A place within the reach of a comparison that does the same as `place`.
    fn near(&mut self, place: usize) -> usize {
        if self.steps(place) <= REACH {
            return place;
        }
        let there = self.list[place];
        match there.code {
            RETURN => {
                let copy = self.push(RETURN, there.value);
                self.answers.insert(Answer::Action(there.value), copy);
                copy
            }
            _ => self.push(JUMP, self.steps(place) as u32),
        }
    }
}

/// Divides ranges into groups of one answer with holes: every second one of a group is a single number.
fn groups(mut ranges: &[Range]) -> Vec<&[Range]> {
    let mut groups = Vec::new();
    while !ranges.is_empty() {
        let pairs = ranges[1..].chunks_exact(2).take(MOST_HOLES);
        let holes = pairs
            .take_while(|pair| pair[0].first == pair[0].last && pair[1].answer == ranges[0].answer)
            .count();
        let (group, rest) = ranges.split_at(1 + 2 * holes);
        groups.push(group);
        ranges = rest;
    }
    groups
}

/// The kernel tries a program out on all numbers that it has calls for, which are below this.
const TRIED: u32 = 512;

/// Where a list of at least two groups is best divided: with as many of the numbers that are tried on
/// either side, and of the groups, should there be few of those.
fn middle(groups: &[&[Range]]) -> usize {
    let weight = |range: &Range| {
        let end = range.last.saturating_add(1).min(TRIED);
        end.saturating_sub(range.first) as usize + 1
    };
    let weights = groups.iter().map(|group| group.iter().map(weight).sum());
    let weights: Vec<usize> = weights.collect();
    let whole: usize = weights.iter().sum();
    let mut below = 0;
    let heavier = weights.iter().position(|weight| {
        below += weight;
        // Half of the group in the middle is on the other side.
        2 * below > whole + weight
    });
    heavier
        .unwrap_or(groups.len() - 1)
        .clamp(1, groups.len() - 1)
}

#[cfg(test)]
#[path = "seccomp_compact_tests.rs"]
mod tests;
