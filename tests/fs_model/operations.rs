//! What is done to both, at random.

use proptest::prelude::*;
use proptest::sample::select;

/// An entry: the number of a directory (taken modulo how many there are) and a name.
pub type Place = (u8, Vec<u8>);

#[derive(Clone, Debug)]
pub enum Op {
    Create(Place, u16),
    MakeDir(Place, u16),
    Symlink(Place, Vec<u8>),
    Fifo(Place),
    Link(Place, Place),
    Unlink(Place),
    RemoveDir(Place),
    Rename(Place, Place, u32),
    Open(Place, bool),
    Close(u8),
    Write(u8, u64, u8, usize),
    Read(u8, u64, usize),
    Truncate(Place, u64),
    TruncateOpen(u8, u64),
    Allocate(u8, u64, u64, i32),
    Chmod(Place, u16),
    ChmodOpen(u8, u16),
    SetXattr(Place, u8, usize, i32),
    RemoveXattr(Place, u8),
    Sync(u8),
    ForgetAll,
    Compare,
    Tick,
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    select(vec![
        b"a".to_vec(),
        b"b".to_vec(),
        b"c".to_vec(),
        "\u{fc}n\u{ef} \\x".as_bytes().to_vec(),
        vec![b'm'; 160],
        vec![b'n'; 161],
        vec![0xff; 255],
    ])
}

fn places() -> impl Strategy<Value = Place> {
    (0..6u8, names())
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![0..100u64, 4000..4200u64, 16_000..17_000u64, 60_000..70_000u64, Just(4096 * 119), Just(4096 * 247)]
}

pub fn operations() -> impl Strategy<Value = Op> {
    let perm = || 0..0o1000u16;
    prop_oneof![
        6 => (places(), perm()).prop_map(|(at, perm)| Op::Create(at, perm)),
        4 => (places(), perm()).prop_map(|(at, perm)| Op::MakeDir(at, perm | 0o700)),
        1 => (places(), prop::collection::vec(1..=255u8, 1..1500)).prop_map(|(at, target)| Op::Symlink(at, target)),
        1 => places().prop_map(Op::Fifo),
        2 => (places(), places()).prop_map(|(from, to)| Op::Link(from, to)),
        3 => places().prop_map(Op::Unlink),
        2 => places().prop_map(Op::RemoveDir),
        6 => (places(), places(), 0..=2u32).prop_map(|(from, to, flags)| Op::Rename(from, to, flags)),
        3 => (places(), any::<bool>()).prop_map(|(at, truncate)| Op::Open(at, truncate)),
        2 => any::<u8>().prop_map(Op::Close),
        6 => (any::<u8>(), sizes(), 1..=255u8, 1..20_000usize).prop_map(|(file, at, byte, len)| Op::Write(file, at, byte, len)),
        3 => (any::<u8>(), sizes(), 0..20_000usize).prop_map(|(file, at, len)| Op::Read(file, at, len)),
        1 => (places(), sizes()).prop_map(|(at, len)| Op::Truncate(at, len)),
        2 => (any::<u8>(), sizes()).prop_map(|(file, len)| Op::TruncateOpen(file, len)),
        2 => (any::<u8>(), sizes(), sizes(), select(vec![0, 1, 3, 0x10, 0x11])).prop_map(|(file, at, len, mode)| Op::Allocate(file, at, len, mode)),
        1 => (places(), perm()).prop_map(|(at, perm)| Op::Chmod(at, perm)),
        1 => (any::<u8>(), perm()).prop_map(|(file, perm)| Op::ChmodOpen(file, perm)),
        2 => (places(), 0..3u8, 0..300usize, 0..3i32).prop_map(|(at, key, len, flags)| Op::SetXattr(at, key, len, flags)),
        1 => (places(), 0..3u8).prop_map(|(at, key)| Op::RemoveXattr(at, key)),
        1 => any::<u8>().prop_map(Op::Sync),
        1 => Just(Op::ForgetAll),
        1 => Just(Op::Compare),
        1 => Just(Op::Tick),
    ]
}
