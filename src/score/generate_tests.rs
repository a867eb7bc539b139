//! Generation with a model whose next token is a function of the path: what comes out must be what the plain definition says.

use super::super::fake::{Model, Words, letter};
use super::*;
use std::sync::atomic::AtomicBool;

fn options(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, prefix: vec![1], ..GenerateOptions::default() }
}

fn run(prompts: &[Vec<u32>], model: &mut Model, options: &GenerateOptions) -> Result<Vec<Output>> {
    let (mut last, go) = (0, AtomicBool::new(false));
    let mut progress = |done, _| {
        assert!(done >= last);
        last = done;
    };
    let mut hooks = Hooks { progress: &mut progress, say: &mut |_| {}, interrupted: &go };
    generate(prompts, &Words::new(true, &[]), model, options, &mut hooks)
}

fn ids(text: &str) -> Vec<u32> {
    std::iter::once(1).chain(text.chars().map(|c| c as u32)).collect()
}

/// One token after the other, from the whole sequence each time; everything looked at from its beginning.
fn plain(prompt: &[u32], options: &GenerateOptions, window: usize) -> Output {
    let mut whole = prompt.to_vec();
    let room = options.max_new_tokens.min(window / 2);
    let mut truncated = false;
    while whole.len() + room > window {
        whole.remove(usize::from(whole[0] == 1));
        truncated = true;
    }
    let mut out = Vec::new();
    let text = |out: &[u32]| out.iter().map(|&t| char::from_u32(t).unwrap()).collect::<String>();
    let stopped = loop {
        let next = letter(&whole);
        if options.stop_ids.contains(&next) {
            break Stopped::StopId;
        }
        whole.push(next);
        out.push(next);
        if options.stop.iter().any(|s| text(&out).contains(s)) {
            break Stopped::StopText;
        }
        if out.len() == options.max_new_tokens {
            break Stopped::Length;
        }
        if whole.len() == window {
            break Stopped::Context;
        }
    };
    let mut text = text(&out);
    if let Some(at) = options.stop.iter().filter_map(|s| text.find(s)).min() {
        text.truncate(at);
    }
    Output { text, ids: out, stopped, truncated }
}

/// Prompts of all lengths, some with beginnings in common, some twice.
fn prompts() -> Vec<Vec<u32>> {
    let shots = "Here are three examples, all of them short. ";
    let other = "Here are three examples, and one more. ";
    let mut all = vec![ids("a"), ids(""), ids(&"long ".repeat(17)), vec![7, 8, 9]];
    for i in 0..5 {
        all.push(ids(&format!("{shots}{}", "x".repeat(i))));
        all.push(ids(&format!("{other}{i}")));
        all.push(ids(&format!("{i} alone {}", "y".repeat(5 * i))));
    }
    all.extend([ids(shots), ids(shots), ids("a")]);
    all
}

#[test]
fn only_the_prompt_decides() {
    let prompts = prompts();
    for (max, stop_ids, stop) in [
        (1, "", vec![]),
        (20, "", vec![]),
        (20, "ez", vec![]),
        (30, "q", vec!["a", "bc", "zx"]),
        (90, "", vec!["ee"]),
    ] {
        let how = GenerateOptions {
            stop_ids: stop_ids.chars().map(|c| c as u32).collect(),
            stop: stop.iter().map(|s| s.to_string()).collect(),
            ..options(max)
        };
        let want: Vec<Output> = prompts.iter().map(|p| plain(p, &how, 100)).collect();
        for (batch_size, capacity, room) in [
            (None, 1000, 5000),
            (Some(1), 100, 0),
            (Some(3), 100, 0),
            (Some(3), 120, 200),
            (Some(99), 150, 260),
        ] {
            for unrolled in [false, true] {
                let mut model = Model { room, ..Model::new(100, capacity, 20) };
                let how = GenerateOptions { batch_size, unrolled, ..how.clone() };
                let got = run(&prompts, &mut model, &how).unwrap();
                assert_eq!(
                    got, want,
                    "{max} {stop_ids} {stop:?} {batch_size:?} {capacity} {room} {unrolled}"
                );
            }
        }
    }
}

#[test]
fn a_common_beginning_is_computed_once() {
    let shots = "Q: what? A: this. ".repeat(3);
    let prompts: Vec<_> = (0..20).map(|i| ids(&format!("{shots}{i:02}"))).collect();
    let computed = |unrolled, batch_size| {
        let mut model = Model::new(200, 1000, 20);
        run(&prompts, &mut model, &GenerateOptions { unrolled, batch_size, ..options(1) }).unwrap();
        (model.tokens, model.batches)
    };
    let shared = 1 + shots.len();
    // Ten have a third letter more in common, but a group is taken as it saves most.
    assert_eq!(computed(false, Some(20)), (shared + 20 * 2, 1));
    assert_eq!(computed(false, Some(3)), (shared + 20 * 2, 7));
    assert_eq!(computed(true, Some(20)).0, 20 * (shared + 2));
}

#[test]
fn who_ends_makes_room_for_the_next() {
    // Nine prompts of one output token beside one of 30: the pass that ends some takes others in.
    let prompts: Vec<_> = (0..10).map(|i| ids(&format!("{i}"))).collect();
    let how = GenerateOptions { batch_size: Some(2), ..options(30) };
    let lengths: Vec<usize> = prompts.iter().map(|p| plain(p, &how, 100).ids.len()).collect();
    assert_eq!(lengths, [30; 10]);
    let how = GenerateOptions { stop_ids: (97..123).filter(|l| l % 3 == 0).collect(), ..how };
    let passes: Vec<usize> = prompts
        .iter()
        .map(|p| plain(p, &how, 100))
        .map(|o| o.ids.len() + usize::from(o.stopped == Stopped::StopId))
        .collect();
    let mut model = Model::new(100, 1000, 20);
    run(&prompts, &mut model, &how).unwrap();
    let (total, longest) = (passes.iter().sum::<usize>(), passes.iter().max().unwrap());
    assert!(model.batches <= total.div_ceil(2) + longest, "{} passes for {passes:?}", model.batches);
}

#[test]
fn the_window_cuts_prompts_and_ends_outputs() {
    let run = |prompt: &Vec<u32>, max, window| {
        let how = GenerateOptions { window: Some(window), ..options(max) };
        let got = run(std::slice::from_ref(prompt), &mut Model::new(50, 50, 5), &how).unwrap().remove(0);
        assert_eq!(got, plain(prompt, &how, window));
        (got.ids.len(), got.stopped, got.truncated)
    };
    let long = ids(&"z".repeat(80));
    assert_eq!(run(&long, 10, 50), (10, Stopped::Length, true));
    assert_eq!(run(&long, 30, 50), (25, Stopped::Context, true)); // half of the window is left to it
    assert_eq!(run(&long, 1000, 9), (4, Stopped::Context, true));
    assert_eq!(run(&ids("abc"), 1000, 50), (46, Stopped::Context, false));
    assert_eq!(run(&ids(&"z".repeat(39)), 10, 50), (10, Stopped::Length, false)); // fits exactly
    assert_eq!(run(&vec![7; 60], 10, 50), (10, Stopped::Length, true)); // without the prefix
}

#[test]
fn what_cannot_work_is_refused() {
    let one = [ids("a")];
    let fails = |prompts: &[Vec<u32>], how: GenerateOptions| {
        run(prompts, &mut Model::new(50, 50, 5), &how).unwrap_err().kind
    };
    let base = || options(5);
    assert_eq!(fails(&one, options(0)), Kind::Usage);
    assert_eq!(fails(&one, GenerateOptions { batch_size: Some(0), ..base() }), Kind::Usage);
    assert_eq!(fails(&one, GenerateOptions { stop: vec![String::new()], ..base() }), Kind::Usage);
    for window in [0, 2, 51] {
        assert_eq!(fails(&one, GenerateOptions { window: Some(window), ..base() }), Kind::Usage, "{window}");
    }
    assert_eq!(fails(&[ids("a"), vec![]], base()), Kind::Data);
    assert_eq!(run(&[], &mut Model::new(50, 50, 5), &base()).unwrap(), []);
    let mut model = Model { fails_after: 2, ..Model::new(50, 50, 5) };
    assert_eq!(run(&one, &mut model, &base()).unwrap_err().kind, Kind::Internal);

    let stop = AtomicBool::new(true);
    let mut hooks = Hooks { progress: &mut |_, _| {}, say: &mut |_| {}, interrupted: &stop };
    let words = Words::new(true, &[]);
    let e = generate(&one, &words, &mut Model::new(50, 50, 5), &base(), &mut hooks).unwrap_err();
    assert_eq!(e.kind, Kind::Interrupted);
}

#[test]
fn an_empty_prompt_is_the_prefix_or_eos() {
    assert_eq!(encode_prompt(&Words::new(true, &[]), "").unwrap(), [1]);
    assert_eq!(encode_prompt(&Words::new(false, &[]), "").unwrap(), [2]);
    let neither = Words { eos: None, ..Words::new(false, &[]) };
    assert_eq!(encode_prompt(&neither, "").unwrap_err().kind, Kind::Data);
    assert_eq!(encode_prompt(&neither, "a").unwrap(), [97]);
}
