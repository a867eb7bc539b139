//! Is the model right? Against PyTorch-made fixtures (tests/fixtures/README.md): hidden states, logits, token losses, every
//! gradient and ten AdamW steps; and the options that promise not to change a bit.

use flanrt::arena::Arena;
use flanrt::cpu::Cpu;
use flanrt::model::{Acts, Cache, Config, Input, Model, Params, Recompute, Sizes};
use flanrt::ops::optim::{self, AdamState, Master, NUMBERS};
use flanrt::ops::{AdamW, Batch, Device};
use flanrt::tensor::{DType, Tensor};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const CASES: [&str; 5] = ["llama-gqa", "llama-tied", "mistral", "qwen2", "qwen3"];

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case)
}

/// The stored reference numbers of a case.
struct Expected(Vec<u8>);

impl Expected {
    fn of(case: &str) -> Self {
        Self(std::fs::read(fixture(case).join("expected.safetensors")).unwrap())
    }
    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }
    fn f32s(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let bytes = file.tensor(name).unwrap().data().chunks_exact(4);
        bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn f64s(&self, name: &str) -> Vec<f64> {
        let file = self.file();
        let bytes = file.tensor(name).unwrap().data().chunks_exact(8);
        bytes.map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn u32s(&self, name: &str) -> Vec<u32> {
        let file = self.file();
        let bytes = file.tensor(name).unwrap().data().chunks_exact(4);
        bytes.map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    /// The batch of the fixture: its sequences as roots, asks at the targets.
    fn batch(&self) -> Batch {
        let (ids, mask) = (self.u32s("ids"), self.file().tensor("target_mask").unwrap().data().to_vec());
        let mut batch = Batch::default();
        let mut at = 0;
        for (s, len) in self.u32s("lengths").into_iter().enumerate() {
            let range = at..at + len as usize;
            batch.push(None, &ids[range.clone()]);
            for i in range.clone().skip(1).filter(|&i| mask[i] == 1) {
                batch.ask(i as u32 - 1, ids[i], s as u32);
            }
            at = range.end;
        }
        batch
    }
}

/// A model with everything a training step needs, in f32.
struct Rig {
    device: Box<dyn Device>,
    model: Model,
    grads: Params,
    m: Params,
    v: Params,
    acts: Acts,
    scratch: Tensor,
    clip: Tensor,
    /// Two rows of an update's numbers, and one of ones.
    numbers: Tensor,
    _arena: Arena,
}

impl Rig {
    fn new(
        case: &str,
        config: &str,
        recompute: Recompute,
        chunk: usize,
        batch: &Batch,
        threads: usize,
    ) -> Self {
        let device: Box<dyn Device> = Box::new(Cpu::new(threads).unwrap());
        let config = Config::parse(&std::fs::read(fixture(case).join(config)).unwrap(), config).unwrap();
        let sizes = Sizes {
            tokens: batch.len(),
            asks: batch.len(),
            chunk,
            train: Some(recompute),
            profile: device.profile(),
        };
        let (arena, (model, grads, m, v, acts, scratch, [clip, numbers])) = Arena::carve(&*device, |arena| {
            let model = Model::carve(&config, arena, DType::F32, config.context);
            let scratch = arena.take("clip", DType::F32, 1, optim::clip_scratch(model.params.all.cols()));
            let mut params = |name| Params::carve(&config, arena, name, DType::F32);
            let (grads, m, v) = (params("grads"), params("m"), params("v"));
            let acts = Acts::carve(&config, arena, DType::F32, sizes);
            let clip = [(1, 2), (3, NUMBERS)].map(|(rows, cols)| arena.take("clip", DType::F32, rows, cols));
            (model, grads, m, v, acts, scratch, clip)
        })
        .unwrap();
        let bytes = std::fs::read(fixture(case).join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let named = model.params.named(&config);
        assert_eq!(named.len(), file.len(), "{case}: parameters");
        for n in named {
            let stored = file.tensor(&n.name).unwrap();
            assert_eq!(stored.shape(), n.shape, "{case}: {}", n.name);
            device.write(n.tensor, stored.data());
        }
        model.prepare(&*device);
        Self { device, model, grads, m, v, acts, scratch, clip, numbers, _arena: arena }
    }

    fn plain(case: &str, batch: &Batch) -> Self {
        Self::new(case, "config.json", Recompute::None, 7, batch, 2)
    }

    fn upload(&self, batch: &Batch) -> Input {
        let scale = 1.0 / batch.rows.len().max(1) as f32;
        self.model.upload(&*self.device, &self.acts, batch, scale).unwrap()
    }

    fn losses(&self, batch: &Batch) -> Vec<f32> {
        self.device.zero(self.grads.all);
        let input = self.upload(batch);
        let losses = self.model.train(&*self.device, &self.acts, &input, &self.grads);
        self.read(losses)
    }

    fn read(&self, x: Tensor) -> Vec<f32> {
        let mut out = vec![0f32; x.len()];
        self.device.read(bytemuck::cast_slice_mut(&mut out), x);
        out
    }
}

/// Largest difference relative to the largest expected magnitude.
fn worst(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let top = want.iter().fold(1e-12f64, |a, b| a.max(f64::from(b.abs())));
    got.iter()
        .zip(want)
        .map(|(a, b)| f64::from((a - b).abs()) / top)
        .fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

fn mean(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64
}

/// Every row asked for once, so that logits come for all of them.
fn all_rows(batch: &Batch) -> Batch {
    let mut all =
        Batch { tokens: batch.tokens.clone(), segments: batch.segments.clone(), ..Batch::default() };
    (0..batch.len() as u32).for_each(|r| all.ask(r, 0, 0));
    all
}

#[test]
fn logits_losses_and_every_gradient_agree_with_pytorch() {
    for case in CASES {
        let expected = Expected::of(case);
        let batch = expected.batch();
        for config in ["config.json", "config.legacy.json"] {
            let rig = Rig::new(case, config, Recompute::None, 7, &batch, 2);
            let all = all_rows(&batch);
            let logits = rig.model.logits(&*rig.device, &rig.acts, &rig.upload(&all));
            let off = worst(&logits, &expected.f32s("logits"));
            assert!(off < 3e-6, "{case}/{config}: logits off by {off:.1e} of their largest");
            let losses = rig.losses(&batch);
            for (i, (got, want)) in losses.iter().zip(expected.f64s("token_loss")).enumerate() {
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "{case}: loss of target {i} is {got}, want {want}"
                );
            }
            let want = expected.f64s("loss")[0];
            assert!(
                (mean(&losses) / want - 1.0).abs() < 1e-6,
                "{case}: mean loss {} vs {want}",
                mean(&losses)
            );
            for n in rig.grads.named(&rig.model.config) {
                let off = worst(&rig.read(n.tensor), &expected.f32s(&format!("grad.{}", n.name)));
                assert!(
                    off < 1e-4,
                    "{case}/{config}: gradient of {} off by {off:.1e} of its largest",
                    n.name
                );
            }
        }
    }
}

#[test]
fn ten_adamw_steps_agree_with_pytorch() {
    for case in CASES {
        let expected = Expected::of(case);
        let batch = expected.batch();
        let rig = Rig::plain(case, &batch);
        let (losses, norms) = (expected.f64s("adamw_losses"), expected.f64s("grad_norms"));
        for step in 0..10 {
            let got = mean(&rig.losses(&batch));
            let d = &rig.device;
            let how = AdamW {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                decay: 0.1,
                step: step as u64 + 1,
                key: 0,
            };
            let numbers = [how.numbers(), AdamW { decay: 0.0, ..how }.numbers(), [1.0; NUMBERS]];
            d.write(rig.numbers, bytemuck::cast_slice(&numbers));
            let row = |i| rig.numbers.slice_rows(i..i + 1);
            d.clip(rig.clip, rig.grads.all, 1.0, row(2).slice_cols(0..1), rig.scratch);
            let norm = f64::from(rig.read(rig.clip)[0]);
            assert!(
                (got / losses[step] - 1.0).abs() < 1e-4,
                "{case}: loss {got} at step {step}, want {}",
                losses[step]
            );
            assert!(
                (norm / norms[step] - 1.0).abs() < 1e-3,
                "{case}: norm {norm} at step {step}, want {}",
                norms[step]
            );
            let (w, m, v, g) = (&rig.model.params, &rig.m, &rig.v, &rig.grads);
            for (i, [weights, m, v, g]) in
                [[w.decayed, m.decayed, v.decayed, g.decayed], [w.plain, m.plain, v.plain, g.plain]]
                    .into_iter()
                    .enumerate()
            {
                let state = AdamState { weights, master: Master::Weights, m, v, first: 0 };
                d.adamw(&state, g, rig.clip, row(i));
            }
        }
    }
}

/// Losses and gradients as bits, of one configuration of the options.
fn bits(case: &str, recompute: Recompute, chunk: usize, threads: usize) -> (Vec<u32>, Vec<u32>) {
    let batch = Expected::of(case).batch();
    let rig = Rig::new(case, "config.json", recompute, chunk, &batch, threads);
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect();
    (bits(rig.losses(&batch)), bits(rig.read(rig.grads.all)))
}

#[test]
fn recompute_and_threads_do_not_change_a_bit() {
    for case in CASES {
        let want = bits(case, Recompute::None, 7, 1);
        for recompute in [Recompute::Lean, Recompute::Ffn, Recompute::Block] {
            assert!(want == bits(case, recompute, 7, 1), "{case}: {recompute:?}");
        }
        assert!(want == bits(case, Recompute::None, 7, 2), "{case}: threads");
        // Chunks of logits change the order in which the head's gradient is summed, not the losses.
        assert!(want.0 == bits(case, Recompute::None, 100, 2).0, "{case}: chunk");
    }
}

#[test]
fn losses_are_the_same_bits_packed_and_alone() {
    for case in CASES {
        let batch = Expected::of(case).batch();
        let rig = Rig::plain(case, &batch);
        let together = rig.losses(&batch);
        let mut alone = Vec::new();
        for (s, segment) in batch.segments.iter().enumerate() {
            let mut one = Batch::default();
            let range = segment.start..segment.start + segment.len;
            one.push(None, &batch.tokens[range.start as usize..range.end as usize]);
            for i in (0..batch.rows.len()).filter(|&i| batch.owners[i] == s as u32) {
                one.ask(batch.rows[i] - segment.start, batch.targets[i], 0);
            }
            alone.extend(rig.losses(&one));
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&together), bits(&alone), "{case}");
    }
}

#[test]
fn a_shared_context_gives_the_bits_of_plain_sequences() {
    for case in CASES {
        let expected = Expected::of(case);
        let ids = expected.u32s("ids");
        let (context, options) = (&ids[..9], [&ids[9..12], &ids[4..5], &ids[1..7]]);
        let (mut forest, mut plain) = (Batch::default(), Batch::default());
        let root = forest.push(None, context);
        for (o, option) in options.iter().enumerate() {
            let child = forest.push(Some(root), option);
            let start = forest.segments[child as usize].start;
            forest.ask(8, option[0], o as u32);
            (1..option.len() as u32).for_each(|i| forest.ask(start + i - 1, option[i as usize], o as u32));
            let whole = [context, option].concat();
            let segment = plain.push(None, &whole);
            let start = plain.segments[segment as usize].start + 8;
            (0..option.len() as u32).for_each(|i| plain.ask(start + i, option[i as usize], o as u32));
        }
        forest.sort_asks();
        let rig = Rig::plain(case, &plain);
        let predict = |b: &Batch| {
            let values = rig.model.predict(&*rig.device, &rig.acts, &rig.upload(b));
            let mut keyed: Vec<_> = b
                .owners
                .iter()
                .zip(&b.targets)
                .zip(values)
                .map(|((o, t), (p, g))| (*o, *t, p.to_bits(), g))
                .collect();
            keyed.sort_unstable();
            keyed
        };
        assert_eq!(predict(&forest), predict(&plain), "{case}");
    }
}

/// Two sequences that begin alike, and a third, in pieces of any size, computed beside one another over a cache: every
/// logit has the bits of the plain pass.
#[test]
fn logits_over_a_cache_have_the_bits_of_the_plain_pass() {
    for case in CASES {
        let ids = Expected::of(case).u32s("ids");
        let (shared, ends) = (&ids[..9], [&ids[9..21], &ids[3..10], &ids[1..20]]);
        let whole = [[shared, ends[0]].concat(), [shared, ends[1]].concat(), ends[2].to_vec()];
        let mut plain = Batch::default();
        for s in &whole {
            plain.push(None, s);
        }
        let rig = Rig::plain(case, &plain);
        let vocab = rig.model.config.vocab;
        let logits = |input: &Input| rig.model.logits(&*rig.device, &rig.acts, input);
        let want = logits(&rig.upload(&all_rows(&plain)));

        let profile = rig.device.profile();
        let (_arena, cache) = Arena::carve(&*rig.device, |arena| {
            Cache::carve(&rig.model.config, arena, DType::F32, 80, plain.len(), profile)
        })
        .unwrap();
        for pieces in [[1, 1, 1], [4, 1, 3], [2, 100, 5]] {
            // Rows of the shared tokens, and of each sequence's own, with gaps between and not in order.
            let (root, own) = (50, [30, 10, 60]);
            let (mut seen, mut compared) = ([0; 3], 0);
            for step in 0.. {
                let mut batch = Batch::default();
                let root = match step {
                    0 => batch.push_at(None, root, shared),
                    _ => batch.cached(None, root, shared.len()),
                };
                let mut rows = if step == 0 { Vec::from_iter((0..9).map(|i| (0, i))) } else { vec![] };
                for s in 0..3 {
                    let n = pieces[s].min(ends[s].len() - seen[s]);
                    if n == 0 {
                        continue;
                    }
                    let mut parent = (s < 2).then_some(root);
                    if seen[s] > 0 {
                        parent = Some(batch.cached(parent, own[s], seen[s]));
                    }
                    batch.push_at(parent, own[s] + seen[s] as u32, &ends[s][seen[s]..seen[s] + n]);
                    let first = seen[s] + if s < 2 { 9 } else { 0 };
                    rows.extend((first..first + n).map(|i| (s, i)));
                    seen[s] += n;
                }
                if batch.is_empty() {
                    break;
                }
                let batch = all_rows(&batch);
                let input = rig.model.upload_cached(&*rig.device, &rig.acts, &cache, &batch).unwrap();
                let got = logits(&input);
                for (got, (s, i)) in got.chunks(vocab).zip(rows) {
                    let at = plain.segments[s].start as usize + i;
                    assert!(got == &want[at * vocab..][..vocab], "{case}: token {i} of {s}, {pieces:?}");
                    compared += 1;
                }
            }
            assert_eq!(compared, plain.len() - 9, "{case}");
        }
    }
}

#[test]
fn batches_that_break_the_laws_of_a_cache_are_refused() {
    let mut batch = Batch::default();
    let seen = batch.cached(None, 4, 6);
    batch.push_at(Some(seen), 10, &[1, 2]);
    batch.push_at(Some(seen), 12, &[3]);
    batch.ask(1, 0, 0);
    batch.check_cached(4, 8, 13).unwrap();
    assert_eq!((batch.positions(), batch.slots()), (vec![6, 7, 6], vec![10, 11, 12]));
    for (vocab, context, rows) in [(3, 8, 13), (4, 7, 13), (4, 8, 12)] {
        batch.check_cached(vocab, context, rows).unwrap_err();
    }
    batch.check(4, 8).unwrap_err();
    batch.push_at(None, 11, &[1]);
    let e = batch.check_cached(4, 8, 13).unwrap_err();
    assert!(e.message.contains("overlap"), "{}", e.message);
}
