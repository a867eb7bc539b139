//! A report of the size that real ones have, of made-up numbers.

use super::*;

/// Name, chance, base, tuned.
const CLUSTERS: [(&str, f64, f64, f64); 10] = [
    ("Natural language inference", 0.333, 0.412, 0.561),
    ("Reading comprehension", 0.5, 0.533, 0.682),
    ("Closed-book QA", 0.25, 0.322, 0.402),
    ("Commonsense reasoning", 0.5, 0.561, 0.597),
    ("Coreference resolution", 0.5, 0.522, 0.514),
    ("Reading comprehension with commonsense", 0.25, 0.297, 0.438),
    ("Sentiment analysis", 0.5, 0.701, 0.934),
    ("Paraphrase detection", 0.5, 0.507, 0.643),
    ("Translation", 0.25, 0.262, 0.331),
    ("Struct-to-text", 0.5, 0.548, 0.731),
];

/// Even noise from -1 to 1 without a state.
fn noise(i: u64) -> f64 {
    let x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x >> 11) as f64 / (1u64 << 52) as f64) - 1.0
}

/// The report.
pub(super) fn report() -> Report {
    let strings = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    Report {
        title: "Does instruction tuning make a small model follow instructions it has never seen?".into(),
        lead: strings(&[
            "Yes, mostly: on nine of ten held-out clusters the tuned model beats the best of three prompts to its base, by 11.7 points on average. Coreference does not gain.",
            "The gain is there from four clusters on and grows with the size of the model; below about 0.5M parameters tuning makes unseen tasks worse, as the paper reports for models below 8B. Every number is a mean over three seeds; `flanrt demo` repeats all of it on this machine in 52 minutes.",
        ]),
        facts: [
            ("Model", "decoder, 8 layers, 3.2M parameters"),
            ("Data", "micro world, 25 datasets in 10 clusters, 10 templates each"),
            ("Seeds", "0, 1, 2"),
            ("Time", "52 min 10 s"),
            ("Machine", "2 cores, AVX-512, 24 GiB; no GPU"),
            ("Weights", "blake3 9c1185a5c5e9fc54612808977ee8f548b2258d31d8a7e4f1c0b2a6d0f5b6d9aa"),
            ("Version", "flanrt 0.1.0 (9fe762a)"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .into(),
        sections: vec![
            Section {
                title: "Held-out clusters".into(),
                text: strings(&[
                    "For each cluster a model was tuned on the other nine and asked the datasets of this one, without examples, in words that it had not seen. The base model got the best of three prompts, chosen on the development split.",
                ]),
                figures: vec![Figure::Bars(clusters())],
                tables: vec![scores()],
                details: Some(Details {
                    summary: "A row as the model saw it".into(),
                    text: "Premise: Mina gave the lamp to Oren because the cellar was dark.\nHypothesis: Oren has the lamp.\nDoes the premise entail the hypothesis?\nOPTIONS:\n- yes\n- no\n\n=> yes <&> \"quoted\"".into(),
                }),
            },
            Section {
                title: "How many clusters it takes".into(),
                text: strings(&["The three clusters that are asked here are never among those that are tuned on."]),
                figures: vec![Figure::Lines(curve())],
                ..Section::default()
            },
            Section { title: "Size of the model".into(), figures: vec![Figure::Lines(scaling())], ..Section::default() },
            Section { title: "Training".into(), figures: vec![Figure::Lines(loss())], ..Section::default() },
        ],
        replay: strings(&[
            "flanrt demo --out results --seeds 0,1,2",
            "flanrt evaluate --model results/tuned/seed-0 --tasks tasks/micro_world --split test --rule sum_eos --prompt-mode instructions --out results/eval",
        ]),
    }
}

fn clusters() -> Bars {
    let group = |(i, (label, chance, base, tuned)): (usize, (&str, f64, f64, f64))| Group {
        label: label.into(),
        note: (i % 4 == 2).then(|| "answers generated".into()),
        values: vec![
            Some(Value::with_error(base, 0.012 + 0.003 * (i % 3) as f64)),
            (i != 8).then(|| Value::with_error(tuned, 0.01 + 0.004 * (i % 4) as f64)),
        ],
        marks: vec![Some(chance), (i % 3 != 1).then_some(chance + 0.21)],
    };
    Bars {
        title: "Zero-shot accuracy by cluster, base model and tuned model".into(),
        text: "Bars: standard error over three seeds. The prose cloze is what the base model reaches when the question is a text to go on with.".into(),
        axis: "accuracy on the test split".into(),
        unit: Unit::Percent,
        range: Some((0.0, 1.0)),
        series: vec!["base, best of three prompts".into(), "tuned, cluster held out".into()],
        marks: vec!["chance".into(), "prose cloze".into()],
        groups: CLUSTERS.into_iter().enumerate().map(group).collect(),
    }
}

fn curve() -> Lines {
    let points = |values: &[f64], error: f64| {
        let point =
            |(i, y): (usize, &f64)| Point { x: (i + 1) as f64, y: *y, error: (error > 0.0).then_some(error) };
        values.iter().enumerate().map(point).collect::<Vec<_>>()
    };
    Lines {
        title: "More clusters, better on those never seen".into(),
        text: "Mean over three held-out clusters; bars: standard error over three seeds.".into(),
        x: Axis { title: "clusters in the mixture".into(), ..Axis::default() },
        y: Axis { title: "accuracy on held-out clusters".into(), unit: Unit::Percent, ..Axis::default() },
        series: vec![
            Series {
                name: "flanrt, 3.2M".into(),
                points: points(&[0.417, 0.433, 0.482, 0.521, 0.535, 0.561, 0.574], 0.016),
                ..Series::default()
            },
            Series {
                name: "published, FLAN 137B".into(),
                points: points(&[0.497, 0.555, 0.589, 0.572, 0.606, 0.611, 0.636], 0.0),
                reference: true,
                ..Series::default()
            },
        ],
        levels: vec![
            Level { name: "base model, 3.2M".into(), value: 0.409 },
            Level { name: "chance".into(), value: 0.361 },
        ],
    }
}

fn scaling() -> Lines {
    let sizes = [1e5, 2.5e5, 5e5, 1e6, 2e6, 4e6, 8e6];
    let series = |name: &str, values: [f64; 7], band| Series {
        name: name.into(),
        points: sizes.iter().zip(values).map(|(&x, y)| Point { x, y, error: Some(0.013) }).collect(),
        reference: false,
        band,
    };
    Lines {
        title: "Tuning helps from half a million parameters on".into(),
        text: "Bands: standard error over three seeds.".into(),
        x: Axis { title: "parameters".into(), unit: Unit::Count, scale: Scale::Log, range: None },
        y: Axis { title: "accuracy on held-out clusters".into(), unit: Unit::Percent, ..Axis::default() },
        series: vec![
            series("tuned", [0.352, 0.371, 0.418, 0.497, 0.548, 0.577, 0.593], true),
            series("base", [0.371, 0.392, 0.411, 0.423, 0.434, 0.441, 0.446], true),
            series("tuned on one cluster", [0.349, 0.355, 0.362, 0.371, 0.390, 0.402, 0.407], false),
            series("random labels", [0.341, 0.346, 0.338, 0.344, 0.351, 0.339, 0.343], false),
        ],
        levels: vec![],
    }
}

fn loss() -> Lines {
    let step = |i: u64| {
        let t = i as f64;
        Point { x: t, y: 1.62 + 5.4 / (1.0 + t / 60.0) + 0.16 * noise(i), error: None }
    };
    Lines {
        title: "Loss while tuning".into(),
        text: "Seed 0; all 3000 steps.".into(),
        x: Axis { title: "step".into(), unit: Unit::Count, ..Axis::default() },
        y: Axis { title: "loss a target token, nats".into(), ..Axis::default() },
        series: vec![
            Series { name: "training".into(), points: (0..3000).map(step).collect(), ..Series::default() },
            Series {
                name: "development".into(),
                points: (1..=12)
                    .map(|i| Point {
                        x: f64::from(i) * 249.0,
                        y: 1.72 + 5.4 / (1.0 + f64::from(i) * 4.15),
                        error: None,
                    })
                    .collect(),
                ..Series::default()
            },
        ],
        levels: vec![],
    }
}

fn scores() -> Table {
    let row = |(label, chance, base, tuned): (&str, f64, f64, f64)| {
        let gain = tuned - base;
        let tone = if gain > 0.02 { Tone::Good } else { Tone::Bad };
        vec![
            label.into(),
            Cell::number(chance, Unit::Percent).tone(Tone::Muted),
            Cell::number(base, Unit::Percent),
            Cell::number(tuned, Unit::Percent).tone(Tone::Strong),
            Cell { text: format!("{:+.1}", gain * 100.0).replace('-', "−"), number: true, tone },
            Cell::number(1840.0 + chance * 1000.0, Unit::Count),
        ]
    };
    Table {
        caption: "Means of the clusters.".into(),
        head: [
            "cluster",
            "chance",
            "base, best of three prompts",
            "tuned, cluster held out",
            "gain, points",
            "rows",
        ]
        .map(String::from)
        .into(),
        rows: CLUSTERS.into_iter().map(row).collect(),
        note: Some("Gains of more than two points are outside of two standard errors.".into()),
    }
}
