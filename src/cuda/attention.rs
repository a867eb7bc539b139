//! Attention on the GPU: the work lists of a forest, and launches.
//!
//! Two sets of kernels do the same: on tensor cores (16-bit dtypes, head sizes in multiples of 8, rows at multiples of 16
//! bytes) and plain ones for everything else. Both take their work from the forest's table, which `attention_plan` writes
//! once a batch: a launch depends on the number of tokens alone and can be recorded.
//!
//! A query walks the keys of its path by *runs*: consecutive rows at consecutive path positions, each with the run before
//! it. Runs go over the borders of segments that lie behind one another, so that a path is mostly one to three of them.

use super::Cuda;
use super::launch::{Arg, DTYPES, HALVES, Kernel, Launch, shape};
use crate::ops::attention::{Attention, Heads};
use crate::ops::forest::{Forest, Segment};
use crate::tensor::{DType, Tensor};
use std::cmp::Reverse;

/// Tokens of a query tile and keys of a key tile, as in `kernels/attention.cuh`.
const TILE: usize = 64;
/// Words before the lists of a table.
const HEADER: usize = 8;
/// Words of a table: so many, and so many more a token. All segments of one token each: a query tile with its rank, a run
/// and a key tile; a batch without key tiles, as in decoding, has room for two more runs a token instead.
pub(super) const TABLE: (usize, usize) = (64, 17);
/// No run before this one.
const NO_RUN: u32 = u32::MAX;
/// Blocks a multiprocessor: several times what fits, so that early ones make place.
const BLOCKS: usize = 16;

const FWD: &str = "o: *mut T, o_stride: i64, lse: *mut f32, lse_stride: i64, q: *const T, q_stride: i64, \
    k: *const T, k_stride: i64, v: *const T, v_stride: i64, table: *const u32, kv_heads: i32, group: i32, size: i32, \
    window: i32, scale: f32";
const DELTA: &str = "delta: *mut f32, delta_stride: i64, dout: *const T, dout_stride: i64, o: *const T, o_stride: i64, \
    rows: i32, heads: i32, size: i32";
const BWD_Q: &str = "dq: *mut T, dq_stride: i64, dout: *const T, dout_stride: i64, q: *const T, q_stride: i64, \
    k: *const T, k_stride: i64, v: *const T, v_stride: i64, lse: *const f32, lse_stride: i64, delta: *const f32, \
    delta_stride: i64, table: *const u32, kv_heads: i32, group: i32, size: i32, window: i32, scale: f32";
const BWD_KV: &str = "dk: *mut T, dk_stride: i64, dv: *mut T, dv_stride: i64, dout: *const T, dout_stride: i64, \
    q: *const T, q_stride: i64, k: *const T, k_stride: i64, v: *const T, v_stride: i64, lse: *const f32, \
    lse_stride: i64, delta: *const f32, delta_stride: i64, table: *const u32, kv_heads: i32, group: i32, size: i32, \
    window: i32, scale: f32";

/// Head sizes that kernels are made for; others are filled up with zeros.
const SIZES: [usize; 3] = [64, 128, 256];

const fn mma(name: &'static str, threads: u32, params: &'static str) -> Kernel {
    Kernel { name, variants: HALVES, threads, params }
}

const fn plain(name: &'static str, params: &'static str) -> Kernel {
    Kernel { name, variants: DTYPES, threads: 256, params }
}

/// The kernels of this family: of each [`Pass`] those on tensor cores and the plain ones, by [`SIZES`]; then the row sums.
pub(super) static KERNELS: [Kernel; 19] = [
    mma("attention_fwd_mma64", 128, FWD),
    mma("attention_fwd_mma128", 128, FWD),
    mma("attention_fwd_mma256", 128, FWD),
    plain("attention_fwd_plain64", FWD),
    plain("attention_fwd_plain128", FWD),
    plain("attention_fwd_plain256", FWD),
    mma("attention_bwd_q_mma64", 128, BWD_Q),
    mma("attention_bwd_q_mma128", 128, BWD_Q),
    mma("attention_bwd_q_mma256", 128, BWD_Q),
    plain("attention_bwd_q_plain64", BWD_Q),
    plain("attention_bwd_q_plain128", BWD_Q),
    plain("attention_bwd_q_plain256", BWD_Q),
    mma("attention_bwd_kv_mma64", 128, BWD_KV),
    mma("attention_bwd_kv_mma128", 128, BWD_KV),
    mma("attention_bwd_kv_mma256", 256, BWD_KV),
    plain("attention_bwd_kv_plain64", BWD_KV),
    plain("attention_bwd_kv_plain128", BWD_KV),
    plain("attention_bwd_kv_plain256", BWD_KV),
    plain("attention_delta", DELTA),
];

/// The three kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Forward,
    Queries,
    Keys,
}

/// A kernel and the shape of its blocks.
struct Choice {
    kernel: &'static Kernel,
    /// Rows of a block: packed query rows, or keys.
    rows: usize,
    /// Bytes of shared memory.
    shared: usize,
}

/// The kernel of a pass for heads of `size`.
fn choose(pass: Pass, tensor_cores: bool, size: usize) -> Choice {
    let place = SIZES.iter().position(|&s| size <= s);
    let i = place.unwrap_or_else(|| panic!("head size {size}: attention on the GPU takes up to 256"));
    let d = SIZES[i];
    let kernel = &KERNELS[(pass as usize * 2 + usize::from(!tensor_cores)) * SIZES.len() + i];
    if tensor_cores {
        // Tiles of 16-bit elements: 64 rows of the block's own side, and of the other side what goes by.
        let tile = |rows: usize| rows * d * 2;
        let keys = if d <= 128 { 64 } else { 32 };
        let shared = match pass {
            Pass::Forward => tile(64 + 2 * keys),
            Pass::Queries => tile(2 * 64 + 2 * keys),
            // Queries and output gradients of 32 rows, twice where there is room, with three numbers a row.
            Pass::Keys => {
                let stages = if d <= 128 { 2 } else { 1 };
                tile(2 * 64 + stages * 2 * 32) + stages * 3 * 32 * 4
            }
        };
        Choice { kernel, rows: 64, shared }
    } else {
        let rows = if d <= 128 { 32 } else { 16 };
        let (own, other, lines) = (rows * d, 32 * (d + 4), rows * 32);
        let floats = match pass {
            Pass::Forward => own + other + lines,
            Pass::Queries => 2 * own + other + lines,
            Pass::Keys => 2 * own + 2 * other + lines,
        };
        Choice { kernel, rows, shared: 4 * floats }
    }
}

/// Whether the tensor-core kernels take these heads and tensors.
fn tensor_cores(heads: Heads, tensors: &[Tensor]) -> bool {
    let aligned = |x: &Tensor| x.addr().is_multiple_of(16) && x.stride().is_multiple_of(8);
    heads.size.is_multiple_of(8) && tensors.iter().all(|x| x.dtype() != DType::F32 && aligned(x))
}

/// The table of a forest: header, query tiles, runs, key tiles, ranks of the query tiles. `kernels/attention.cuh` reads it.
fn plan(segments: &[Segment]) -> Vec<u32> {
    let n = segments.len();
    let tiles = |s: &Segment| (s.len as usize).div_ceil(TILE);
    let cuts = |s: &Segment| {
        let len = s.len as usize;
        (0..len).step_by(TILE).map(move |first| (first as u32, TILE.min(len - first) as u32))
    };

    // Keys on the path of a query.
    let mut used: Vec<bool> = segments.iter().map(|s| s.queries.is_some()).collect();
    // Query tiles of a segment and all below it.
    let mut below: Vec<usize> =
        segments.iter().map(|s| if s.queries.is_some() { tiles(s) } else { 0 }).collect();
    for (i, s) in segments.iter().enumerate().rev() {
        if let Some(p) = s.parent {
            used[p as usize] |= used[i];
            below[p as usize] += below[i];
        }
    }

    let mut runs: Vec<[u32; 4]> = Vec::new();
    let mut run = vec![NO_RUN; n];
    // First tile of each segment in a walk through the forest, and where the next child's go.
    let (mut first, mut next, mut end) = (vec![0; n], vec![0; n], 0);
    let mut queries = vec![[0; 4]; (0..n).filter(|&i| segments[i].parent.is_none()).map(|i| below[i]).sum()];
    for (i, s) in segments.iter().enumerate().filter(|&(i, _)| used[i]) {
        let parent = s.parent.map(|p| p as usize);
        run[i] = match parent {
            Some(p) if segments[p].start + segments[p].len == s.start => run[p],
            _ => {
                let up = parent.map_or(NO_RUN, |p| run[p]);
                runs.push([s.position, s.start.wrapping_sub(s.position), up, 0]);
                runs.len() as u32 - 1
            }
        };
        let place = parent.map_or(&mut end, |p| &mut next[p]);
        first[i] = *place;
        *place += below[i];
        next[i] = first[i];
        if let Some(row) = s.queries {
            next[i] += tiles(s);
            for (tile, (at, count)) in queries[first[i]..].iter_mut().zip(cuts(s)) {
                *tile = [row + at, s.position + at, count, run[i]];
            }
        }
    }

    let mut ranks: Vec<u32> = (0..queries.len() as u32).collect();
    ranks.sort_by_key(|&i| Reverse(queries[i as usize][1] + queries[i as usize][2]));

    // Only a batch that has all its queries has gradients.
    let mut keys: Vec<[u32; 8]> = Vec::new();
    if segments.iter().all(|s| s.queries.is_some()) {
        for (i, s) in segments.iter().enumerate() {
            let seen_to = (first[i] + below[i]) as u32;
            keys.extend(cuts(s).zip(first[i] as u32..).map(|((at, count), seen_from)| {
                [s.start + at, s.position + at, count, seen_from, seen_to, 0, 0, 0]
            }));
        }
    }
    keys.sort_by_key(|k| Reverse(k[4] - k[3]));

    let runs_at = HEADER + 4 * queries.len();
    let keys_at = runs_at + 4 * runs.len();
    let ranks_at = keys_at + 8 * keys.len();
    let header = [queries.len(), keys.len(), ranks_at, runs_at, keys_at, 0, 0, 0];
    let mut words: Vec<u32> = header.map(|w| w as u32).to_vec();
    words.extend(
        queries.iter().flatten().chain(runs.iter().flatten()).chain(keys.iter().flatten()).chain(&ranks),
    );
    words
}

/// The arguments that every pass ends with.
fn tail(forest: &Forest<'_>, heads: Heads) -> [Arg; 6] {
    assert!(heads.kv > 0 && heads.query.is_multiple_of(heads.kv), "{heads:?}");
    assert!(heads.scale > 0.0, "{heads:?}: the scores' factor is positive");
    let window = heads.window.map_or(i32::MAX, |w| i32::try_from(w).unwrap_or(i32::MAX));
    [
        forest.table.into(),
        (heads.kv as i32).into(),
        ((heads.query / heads.kv) as i32).into(),
        (heads.size as i32).into(),
        window.into(),
        heads.scale.into(),
    ]
}

/// A tensor and its stride.
fn strided(x: Tensor) -> [Arg; 2] {
    [x.into(), (x.stride() as i64).into()]
}

impl Cuda {
    /// Launches one pass over the items of `tokens` tokens: for each tile at most as many as it has tokens, key heads and
    /// parts. `tensors` are its tensors as parameters; those whose alignment matters are `heavy`.
    fn attention_pass(
        &self,
        pass: Pass,
        tensors: &[Tensor],
        heavy: &[Tensor],
        forest: &Forest<'_>,
        heads: Heads,
    ) {
        let choice = choose(pass, tensor_cores(heads, heavy), heads.size);
        let dtype = tensors[0].dtype();
        let packed = if pass == Pass::Keys { TILE } else { TILE * heads.query / heads.kv };
        let items = tensors[0].rows() * heads.kv * (packed / choice.rows).max(1);
        let blocks = items.min(self.sms() as usize * BLOCKS);
        let how =
            Launch { shared: choice.shared as u32, ..Launch::new(blocks as u32, choice.kernel.threads) };
        let args: Vec<Arg> = tensors.iter().flat_map(|&x| strided(x)).chain(tail(forest, heads)).collect();
        self.launch(choice.kernel, dtype.name(), how, &args);
    }
}

impl Attention for Cuda {
    fn attention_plan(&self, forest: &Forest<'_>) {
        use crate::ops::memory::Memory;
        let words = plan(forest.segments);
        let room = forest.table.cols();
        assert!(words.len() <= room, "a forest's table of {room} words; {} are needed", words.len());
        self.write_ahead(forest.table.slice_cols(0..words.len()), bytemuck::cast_slice(&words));
    }

    fn attention_fwd(
        &self,
        o: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        forest: &Forest<'_>,
        heads: Heads,
    ) {
        let t = q.rows();
        for x in [o, q] {
            shape!(x, t, heads.query * heads.size);
        }
        for x in [k, v] {
            shape!(x, k.rows(), heads.kv * heads.size);
        }
        shape!(lse, t, heads.query);
        if t > 0 {
            self.attention_pass(Pass::Forward, &[o, lse, q, k, v], &[o, q, k, v], forest, heads);
        }
    }

    fn attention_bwd(
        &self,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        do_: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        lse: Tensor,
        forest: &Forest<'_>,
        heads: Heads,
        scratch: Tensor,
    ) {
        assert!(
            forest.segments.iter().all(|s| s.queries == Some(s.start)),
            "a backward pass has all queries"
        );
        let t = q.rows();
        for x in [dq, do_, q, o] {
            shape!(x, t, heads.query * heads.size);
        }
        for x in [dk, dv, k, v] {
            shape!(x, t, heads.kv * heads.size);
        }
        shape!(lse, t, heads.query);
        let delta = scratch.slice_rows(0..t);
        shape!(delta, t, heads.query);
        if t == 0 {
            return;
        }
        // Eight threads a row and head.
        let kernel = &KERNELS[KERNELS.len() - 1];
        let blocks = (t * heads.query).div_ceil(kernel.threads as usize / 8);
        let mut args = [delta, do_, o].map(strided).concat();
        args.extend([t, heads.query, heads.size].map(|n| Arg::from(n as i32)));
        self.launch(kernel, o.dtype().name(), Launch::new(blocks as u32, kernel.threads), &args);
        let heavy = [do_, q, k, v];
        let of = |first: &[Tensor]| [first, &heavy].concat();
        let both = |first: &[Tensor]| [first, &heavy, &[lse, delta]].concat();
        self.attention_pass(Pass::Queries, &both(&[dq]), &of(&[dq]), forest, heads);
        self.attention_pass(Pass::Keys, &both(&[dk, dv]), &of(&[dk, dv]), forest, heads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Random forests: chains, bushes, segments of one token, some whose keys lie apart from the queries.
    fn forest(seed: u64) -> Vec<Segment> {
        let rng = Rng::new(seed, 0);
        let mut at = 0..;
        let mut below = |n: u64| rng.below(at.next().unwrap(), n);
        let n = 1 + below(40) as usize;
        let (shape, cached) = (below(4), seed % 3 == 2);
        let mut segments: Vec<Segment> = Vec::new();
        let (mut row, mut query) = (0, 0);
        for i in 0..n {
            let parent = match shape {
                0 => i.checked_sub(1),
                1 => None,
                _ => (i as u64).checked_sub(below(i as u64 + 1) + 1).map(|p| p as usize),
            };
            let len = if below(2) == 0 { 1 } else { 1 + below(200) as u32 };
            let position = parent.map_or(0, |p| segments[p].position + segments[p].len);
            row += if cached { below(3) as u32 } else { 0 };
            let queries = match cached {
                true => (below(2) == 0).then_some(query),
                false => Some(row),
            };
            segments.push(Segment { parent: parent.map(|p| p as u32), start: row, queries, len, position });
            row += len;
            query += if queries.is_some() { len } else { 0 };
        }
        segments
    }

    /// The key rows of the path down to the end of segment `i`, by position.
    fn path(segments: &[Segment], i: usize) -> Vec<u32> {
        let s = segments[i];
        let mut rows = s.parent.map_or(Vec::new(), |p| path(segments, p as usize));
        rows.extend(s.start..s.start + s.len);
        rows
    }

    /// Reads a table as the kernels do.
    struct Table(Vec<u32>);

    impl Table {
        fn part<const N: usize>(&self, at: u32, i: u32) -> [u32; N] {
            self.0[at as usize + N * i as usize..][..N].try_into().unwrap()
        }
        fn query(&self, i: u32) -> [u32; 4] {
            self.part(HEADER as u32, i)
        }
        fn row(&self, mut run: u32, position: u32) -> u32 {
            loop {
                let [from, shift, up, _] = self.part(self.0[3], run);
                if position >= from {
                    return position.wrapping_add(shift);
                }
                run = up;
            }
        }
    }

    #[test]
    fn tiles_cover_all_queries_and_lead_to_the_rows_of_their_paths() {
        for seed in 0..300 {
            let segments = forest(seed);
            let table = Table(plan(&segments));
            let tiles: Vec<[u32; 4]> = (0..table.0[0]).map(|i| table.query(i)).collect();
            let mut found = Vec::new();
            for [row, position, count, run] in &tiles {
                assert!((1..=TILE as u32).contains(count), "seed {seed}");
                let i = segments
                    .iter()
                    .position(|s| s.queries.is_some_and(|q| (q..q + s.len).contains(row)))
                    .unwrap();
                let s = segments[i];
                assert_eq!(row - s.queries.unwrap(), position - s.position, "seed {seed}");
                let rows = path(&segments, i);
                let walked: Vec<u32> = (0..position + count).map(|p| table.row(*run, p)).collect();
                assert_eq!(walked, rows[..(position + count) as usize], "seed {seed}");
                found.extend(*row..row + count);
            }
            found.sort();
            let all = segments.iter().flat_map(|s| s.queries.map_or(0..0, |q| q..q + s.len));
            assert_eq!(found, all.collect::<Vec<_>>(), "seed {seed}");
            let ranks = &table.0[table.0[2] as usize..];
            let ends: Vec<u32> = ranks.iter().map(|&i| tiles[i as usize][1] + tiles[i as usize][2]).collect();
            assert!(ends.is_sorted_by(|a, b| a >= b), "seed {seed}");
            let mut ranks = ranks.to_vec();
            ranks.sort();
            assert_eq!(ranks, (0..table.0[0]).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn key_tiles_are_seen_by_the_tiles_on_and_below_them() {
        for seed in (0..300).filter(|s| s % 3 != 2) {
            let segments = forest(seed);
            let table = Table(plan(&segments));
            let mut found = Vec::new();
            let mut last = u32::MAX;
            for k in 0..table.0[1] {
                let [row, position, count, from, to, ..]: [u32; 8] = table.part(table.0[4], k);
                found.extend(row..row + count);
                assert!(to - from <= last, "seed {seed}");
                last = to - from;
                for q in 0..table.0[0] {
                    let [_, start, tokens, run] = table.query(q);
                    // A query sees the key if the key is on its path.
                    let on_path = start + tokens > position && table.row(run, position) == row;
                    assert_eq!(on_path, (from..to).contains(&q), "seed {seed}, keys {k}, queries {q}");
                }
            }
            found.sort();
            assert_eq!(found, (0..segments.iter().map(|s| s.len).sum()).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn a_table_has_room_for_every_forest() {
        let room = |tokens: usize| TABLE.0 + TABLE.1 * tokens;
        for seed in 0..300 {
            let segments = forest(seed);
            let queries: u32 = segments.iter().filter(|s| s.queries.is_some()).map(|s| s.len).sum();
            if segments.iter().all(|s| s.queries.is_some()) {
                assert!(plan(&segments).len() <= room(queries as usize), "seed {seed}");
            }
        }
        // Every second token hangs on the one before the last: no two share a run.
        let mut comb: Vec<Segment> = Vec::new();
        for i in 0..1000u32 {
            let parent = if i < 2 { None } else { Some(i - 2 + i % 2) };
            let position = parent.map_or(0, |p| comb[p as usize].position + 1);
            comb.push(Segment { parent, start: i, queries: Some(i), len: 1, position });
        }
        assert!(plan(&comb).len() <= room(1000));
        // Decoding: a shared prompt, what each sequence has said, and its next token.
        let mut cache = vec![Segment { parent: None, start: 0, queries: None, len: 50, position: 0 }];
        for i in 0..100 {
            let said = Segment { parent: Some(0), start: 50 + 20 * i, queries: None, len: 9, position: 50 };
            let next = Segment {
                parent: Some(cache.len() as u32),
                start: said.start + 9,
                queries: Some(i),
                len: 1,
                position: 59,
            };
            cache.extend([said, next]);
        }
        let words = plan(&cache);
        assert!(words.len() <= room(100));
        assert_eq!((words[0], words[1]), (100, 0));
    }

    #[test]
    fn an_empty_forest_has_an_empty_table() {
        assert_eq!(plan(&[]), [0, 0, 8, 8, 8, 0, 0, 0]);
    }

    #[test]
    fn blocks_fit_into_shared_memory() {
        for pass in [Pass::Forward, Pass::Queries, Pass::Keys] {
            for (size, mma) in
                [1, 10, 64, 65, 128, 129, 256].into_iter().flat_map(|s| [(s, false), (s, true)])
            {
                let choice = choose(pass, mma, size);
                assert!(choice.shared <= 101_376, "{} takes {}", choice.kernel.name, choice.shared);
                assert!(TILE.is_multiple_of(choice.rows));
            }
        }
    }
}
