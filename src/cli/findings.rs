//! What an experiment's results come to: words, tables and figures, on the terminal and as a report.

use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::experiment::{Asked, Cell, Holdout, Marks, Name, Point, World, base_at_best, curve, holdout};
use crate::flan::eval::{Baselines, published};
use crate::flan::{Catalog, Collection};
use crate::metrics::stats::Mean;
use crate::report::{
    Axis, Bars, Cell as Entry, Figure, Group, Level, Lines, Report, Scale, Screen, Section, Series, Table,
    Tone, Unit, Value,
};
use std::collections::BTreeMap;
use std::path::Path;

/// What is said beside the results.
pub(super) struct Setting<'a> {
    pub(super) world: &'a World,
    pub(super) catalog: &'a Catalog,
    /// By cluster, means over its tasks.
    pub(super) baselines: BTreeMap<String, Baselines>,
    /// What the base model makes of the questions as the documents would put them, by cluster; for the micro-world.
    pub(super) ceilings: BTreeMap<String, f64>,
    /// Model, rows, machine and the like.
    pub(super) facts: Vec<(String, String)>,
    /// Parameters of the models of several sizes.
    pub(super) parameters: BTreeMap<String, u64>,
    /// The command that repeats it.
    pub(super) command: String,
}

/// Section 4.1 of the paper, read off its figure: mean over held-out clusters by the number of clusters tuned on.
const PAPER_CLUSTERS: [f64; 7] = [0.499, 0.55, 0.593, 0.592, 0.608, 0.619, 0.635];
/// Section 4.3 of the paper: tuned on and asked in instructions, no templates, dataset names; names asked by name.
const PAPER_INSTRUCTIONS: [f64; 4] = [0.552, 0.373, 0.466, 0.47];

type Results = [(Cell, Vec<Marks>)];

/// Prints the findings of `name` and writes its report, a page and a picture, into `out`.
pub(super) fn tell(name: Name, results: &Results, setting: &Setting<'_>, out: &Path) -> Result<()> {
    let (title, lead, sections) = match name {
        Name::Holdout => setting.holdout(results)?,
        Name::Clusters => setting.clusters(results),
        Name::Scale => setting.scale(results),
        Name::Instructions => setting.instructions(results),
        Name::FewShot => setting.few_shot(results),
        Name::Options => setting.options(results),
        Name::Templates => setting.templates(results),
    };
    let report =
        Report { title, lead, facts: setting.facts.clone(), sections, replay: vec![setting.command.clone()] };
    super::print(&report.text(screen()))?;
    for path in save(&report, out, name.name())? {
        super::finetune::say!("report  {path}");
    }
    Ok(())
}

/// The terminal, as far as a table needs to know it.
pub(super) fn screen() -> Screen {
    let (_, width) = console::Term::stdout().size();
    let width = if console::Term::stdout().is_term() { usize::from(width) } else { 110 };
    Screen { width: width.clamp(60, 160), colour: console::colors_enabled() }
}

/// Writes `report` as `stem`.html and .png; the paths.
pub(super) fn save(report: &Report, out: &Path, stem: &str) -> Result<Vec<String>> {
    std::fs::create_dir_all(out).map_err(|e| Error::io(Kind::Disk, "create", out, &e))?;
    let (page, picture) = (out.join(format!("{stem}.html")), out.join(format!("{stem}.png")));
    disk::write_atomic(&page, report.html().as_bytes())?;
    disk::write_atomic(&picture, &report.png()?)?;
    Ok(vec![page.display().to_string(), picture.display().to_string()])
}

fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

fn points(value: f64) -> String {
    format!("{:+.1}", 100.0 * value)
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    Mean::of(&values.into_iter().collect::<Vec<_>>()).map_or(f64::NAN, |m| m.value)
}

fn axis(title: &str, unit: Unit, scale: Scale, range: Option<(f64, f64)>) -> Axis {
    Axis { title: title.into(), unit, scale, range }
}

fn series(name: &str, points: &[Point]) -> Series {
    let points = points.iter().map(|p| crate::report::Point { x: p.x, y: p.y, error: Some(p.stderr) });
    Series { name: name.into(), points: points.collect(), reference: false, band: false }
}

type Findings = (String, Vec<String>, Vec<Section>);

impl Setting<'_> {
    fn title(&self, cluster: &str) -> String {
        self.catalog.cluster(cluster).map_or_else(|| cluster.to_owned(), |c| c.title.clone())
    }

    fn holdout(&self, results: &Results) -> Result<Findings> {
        let h = holdout(results, &self.world.evaluated);
        let sure = h.gain.value > 3.0 * h.gain.stderr;
        let lead = vec![
            format!(
                "Each of {} clusters of tasks was held out in turn, with those that overlap it; a model was tuned on the others ({} seeds) and asked the \
                 tasks it had never been tuned on. Against the base model at the best of three kinds of prompts, the tuned model gains {} points on \
                 average (standard error {} from rows and seeds, {} if the clusters are seen as a sample); {} of {} clusters go up.",
                h.clusters.len(),
                self.world.seeds,
                points(h.gain.value),
                percent(h.gain.stderr),
                percent(h.between),
                h.up,
                h.clusters.len()
            ),
            match sure {
                true => "That is: prompts in the shape of instructions, on kinds of tasks that were not tuned on, start to work.".to_owned(),
                false => "That is no sure gain: the mean is not three standard errors above zero.".to_owned(),
            },
        ];
        let groups = |value: fn(&crate::experiment::Cluster) -> (f64, f64),
                      error: fn(&crate::experiment::Cluster) -> f64| {
            let group = |c: &crate::experiment::Cluster| Group {
                label: self.title(&c.name),
                note: None,
                values: vec![Some(value(c).0.into()), Some(Value::with_error(value(c).1, error(c)))],
                marks: vec![Some(c.chance), self.ceilings.get(&c.name).copied()],
            };
            h.clusters.iter().map(group).collect::<Vec<_>>()
        };
        let mut marks = vec!["chance".to_owned()];
        if !self.ceilings.is_empty() {
            marks.push("base, as prose".into());
        }
        let bars = |title: &str, text: &str, first: &str, groups: Vec<Group>| {
            Figure::Bars(Bars {
                title: title.into(),
                text: text.into(),
                axis: "right answers".into(),
                unit: Unit::Percent,
                range: Some((0.0, 1.0)),
                series: vec![first.into(), "tuned, cluster held out".into()],
                marks: marks.clone(),
                groups,
            })
        };
        let best = bars(
            "Held-out clusters: tuned model against the base at its best",
            "The base model is asked by instruction with options, by instruction without, and with text that goes on, and counts with the best of the three; \
             the tuned one is asked by instruction with options. Bars of the tuned model: mean over seeds, one standard error of rows and seeds.",
            "base, best of three prompts",
            groups(|c| (c.base[&c.best], c.tuned.y), |c| c.tuned.stderr),
        );
        let same = bars(
            "The same prompts for both",
            "Base and tuned model asked by instruction with options. Most of the difference is that the base does not know what to make of the list.",
            "base, same prompts",
            groups(|c| (c.base[&Asked::Flan], c.tuned.y), |c| c.tuned.stderr),
        );
        Ok((
            "Held-out clusters, one after the other".into(),
            lead,
            vec![
                Section {
                    title: "Tuned against untuned".into(),
                    text: vec![],
                    figures: vec![best, same],
                    tables: vec![self.scores(&h), self.guards(&h)],
                    details: None,
                },
                self.paper()?,
            ],
        ))
    }

    fn scores(&self, h: &Holdout) -> Table {
        let number = |v: f64| Entry::number(v, Unit::Percent);
        let row = |c: &crate::experiment::Cluster| {
            let tone = if c.gain.value > 2.0 * c.gain.stderr {
                Tone::Good
            } else if c.gain.value < -2.0 * c.gain.stderr {
                Tone::Bad
            } else {
                Tone::Plain
            };
            let base = |a: Asked| {
                let tone = if a == c.best { Tone::Strong } else { Tone::Plain };
                number(c.base[&a]).tone(tone)
            };
            let text = |t: String| Entry { text: t, number: true, tone: Tone::Plain };
            vec![
                Entry::from(self.title(&c.name)),
                base(Asked::Flan),
                base(Asked::Plain),
                base(Asked::Continuation),
                number(c.tuned.y),
                number(c.plain),
                text(format!("{} ±{}", points(c.gain.value), percent(c.gain.stderr))).tone(tone),
                text(c.gain.p.map_or("-".into(), |p| format!("{p:.4}"))),
                text(c.seeds.iter().map(|s| percent(*s)).collect::<Vec<_>>().join(" ")),
                text(c.rows.to_string()),
            ]
        };
        let mut rows: Vec<Vec<Entry>> = h.clusters.iter().map(row).collect();
        let mut last = vec![Entry::from("Mean").tone(Tone::Strong)];
        last.extend([
            number(mean(h.clusters.iter().map(|c| c.base[&Asked::Flan]))),
            number(mean(h.clusters.iter().map(|c| c.base[&Asked::Plain]))),
            number(mean(h.clusters.iter().map(|c| c.base[&Asked::Continuation]))),
            number(mean(h.clusters.iter().map(|c| c.tuned.y))),
            number(mean(h.clusters.iter().map(|c| c.plain))),
            Entry {
                text: format!("{} ±{}", points(h.gain.value), percent(h.gain.stderr)),
                number: true,
                tone: Tone::Strong,
            },
        ]);
        last.extend((0..3).map(|_| Entry::from("")));
        rows.push(last);
        Table {
            caption: "Right answers in percent".into(),
            head: [
                "cluster", "base: flan", "no options", "continued", "tuned: flan", "no options", "gain", "p", "by seed",
                "rows",
            ]
            .map(String::from)
            .into(),
            rows,
            note: Some(
                "Gain: tuned (flan) less the base's best prompt (set strong), ± one standard error of rows and seeds; p: paired sign flips over rows."
                    .into(),
            ),
        }
    }

    fn guards(&self, h: &Holdout) -> Table {
        let number = |v: f64| Entry::number(v, Unit::Percent);
        let row = |c: &crate::experiment::Cluster| {
            let b = self.baselines.get(&c.name);
            let of = |f: fn(&Baselines) -> f64| b.map_or(Entry::from("-"), |b| number(f(b)));
            vec![
                Entry::from(self.title(&c.name)),
                of(|b| b.chance),
                of(|b| b.majority),
                of(|b| b.options),
                of(|b| b.overlap),
                of(|b| b.length),
                number(c.unbiased.0),
                number(c.unbiased.1),
                self.ceilings.get(&c.name).map_or(Entry::from("-"), |v| number(*v)),
            ]
        };
        Table {
            caption: "What the scores must be compared with".into(),
            head: [
                "cluster", "chance", "majority", "options only", "overlap", "length", "base, unbiased", "tuned, unbiased",
                "base, as prose",
            ]
            .map(String::from)
            .into(),
            rows: h.clusters.iter().map(row).collect(),
            note: Some(
                "Majority: the answer most frequent in the training rows. Options only: the option most often right there. Overlap: the option with most \
                 words in the question. Length: the longest or the shortest. Unbiased: the mean log-odds of each label over the rows taken off, no label \
                 looked at. As prose: the question as the pretraining text puts such things, a ceiling."
                    .into(),
            ),
        }
    }

    /// The paper's own numbers by cluster.
    fn paper(&self) -> Result<Section> {
        let (published, flan) = (published()?, Catalog::load(Collection::Flan, None)?);
        let groups =
            flan.clusters.iter().filter(|c| self.world.evaluated.contains(&c.name)).filter_map(|cluster| {
                let rows: Vec<(f64, f64)> = flan
                    .tasks()
                    .filter(|t| t.dataset.cluster == cluster.name)
                    .filter_map(|t| published.get(&t.task.name))
                    .filter_map(|row| Some((*row.get("lamda")? / 100.0, *row.get("flan")? / 100.0)))
                    .collect();
                (!rows.is_empty()).then(|| Group {
                    label: cluster.title.clone(),
                    note: Some(format!("{} tasks", rows.len())),
                    values: vec![
                        Some(mean(rows.iter().map(|r| r.0)).into()),
                        Some(mean(rows.iter().map(|r| r.1)).into()),
                    ],
                    marks: vec![],
                })
            });
        Ok(Section {
            title: "The paper's figure, for reference".into(),
            text: vec![
                "What Wei et al. (2022) report for a model of 137 billion parameters on real tasks, zero-shot; means over the tasks for which both numbers \
                 are published, recalled from the paper. Other model, other tasks: the shape is what can be compared, not the height."
                    .into(),
            ],
            figures: vec![Figure::Bars(Bars {
                title: "Published: LaMDA-PT 137B and FLAN 137B".into(),
                text: "Zero-shot, the cluster held out of FLAN's tuning.".into(),
                axis: "the tasks' own measures".into(),
                unit: Unit::Percent,
                range: Some((0.0, 1.0)),
                series: vec!["LaMDA-PT, untuned".into(), "FLAN".into()],
                marks: vec![],
                groups: groups.collect(),
            })],
            tables: vec![],
            details: None,
        })
    }

    fn ablated(&self, results: &Results) -> String {
        let asked = results.first().map(|(c, _)| c.ask.clone()).unwrap_or_default();
        asked.iter().map(|c| self.title(c)).collect::<Vec<_>>().join(", ")
    }

    /// The level of the base at the best of its prompts, as a line.
    fn level(results: &Results) -> Vec<Level> {
        vec![Level { name: "base, best of three prompts".into(), value: base_at_best(results, None) }]
    }

    fn one(&self, title: &str, lead: Vec<String>, figure: Figure) -> Findings {
        let section = Section { title: "Results".into(), figures: vec![figure], ..Default::default() };
        (title.into(), lead, vec![section])
    }

    fn clusters(&self, results: &Results) -> Findings {
        let (flan, plain) = (curve(results, "tuned", Asked::Flan), curve(results, "tuned", Asked::Plain));
        let ends = flan.first().zip(flan.last());
        let lead = ends.map_or(String::new(), |(a, b)| {
            format!(
                "Held out together: {}. From {} to {} clusters tuned on, the mean over these goes from {} to {} percent (± {} and {}, standard errors over {} \
                 subsets or seeds); the base at its best has {}.",
                self.ablated(results),
                a.x,
                b.x,
                percent(a.y),
                percent(b.y),
                percent(a.stderr),
                percent(b.stderr),
                self.world.seeds,
                percent(base_at_best(results, None))
            )
        });
        let paper = PAPER_CLUSTERS.iter().enumerate().map(|(i, y)| ((i + 1) as f64, *y).into()).collect();
        let figure = Figure::Lines(Lines {
            title: "More clusters tuned on".into(),
            text: "Mean over the held-out clusters; each point is several random subsets of clusters, with one standard error. Dashed: the paper's figure 6, another model and \
                   other tasks."
                .into(),
            x: axis("clusters tuned on", Unit::Plain, Scale::Linear, None),
            y: axis("right answers", Unit::Percent, Scale::Linear, None),
            series: vec![
                series("asked by instruction", &flan),
                series("the same without options", &plain),
                Series { name: "published, FLAN 137B".into(), points: paper, reference: true, band: false },
            ],
            levels: Self::level(results),
        });
        self.one("The number of clusters", vec![lead], figure)
    }

    fn scale(&self, results: &Results) -> Findings {
        let count = |x: f64| {
            let name = self.world.sizes.get(x as usize);
            name.and_then(|n| self.parameters.get(n)).map_or(x + 1.0, |n| *n as f64)
        };
        let at = |points: Vec<Point>| -> Vec<Point> {
            points.into_iter().map(|p| Point { x: count(p.x), ..p }).collect()
        };
        let tuned = at(curve(results, "tuned", Asked::Flan));
        let base: Vec<Point> = (0..self.world.sizes.len())
            .map(|i| Point { x: count(i as f64), y: base_at_best(results, Some(i as f64)), stderr: 0.0 })
            .collect();
        let gains = base
            .iter()
            .zip(&tuned)
            .map(|(b, t)| format!("{} at {} parameters", points(t.y - b.y), Unit::Count.show(b.x)));
        let lead = format!(
            "Held out together: {}. Tuned less base at its best: {}.",
            self.ablated(results),
            gains.collect::<Vec<_>>().join(", ")
        );
        let figure = Figure::Lines(Lines {
            title: "Larger models".into(),
            text: "Mean over the held-out clusters; all models read the same number of tokens. The paper found that tuning helps its models of 68 and 137 billion parameters and \
                   hurts those of 8 billion and below (figure 7; no values printed)."
                .into(),
            x: axis("parameters", Unit::Count, Scale::Log, None),
            y: axis("right answers", Unit::Percent, Scale::Linear, None),
            series: vec![series("base, best of three prompts", &base), series("tuned, asked by instruction", &tuned)],
            levels: vec![],
        });
        self.one("The size of the model", vec![lead], figure)
    }

    fn instructions(&self, results: &Results) -> Findings {
        let rows = [
            ("instructions", "flan", Asked::Flan),
            ("inputs alone", "no-template", Asked::Flan),
            ("dataset names", "dataset-name", Asked::Flan),
            ("dataset names, asked by name", "dataset-name", Asked::DatasetName),
        ];
        let point = |s: &str, asked| curve(results, s, asked).first().copied();
        let groups: Vec<Group> = rows
            .iter()
            .zip(PAPER_INSTRUCTIONS)
            .map(|((label, s, asked), paper)| Group {
                label: (*label).into(),
                note: None,
                values: vec![point(s, *asked).map(|p| Value::with_error(p.y, p.stderr))],
                marks: vec![Some(paper), Some(base_at_best(results, None))],
            })
            .collect();
        let said: Vec<String> = rows
            .iter()
            .filter_map(|(label, s, asked)| {
                point(s, *asked).map(|p| format!("{label} {} ± {}", percent(p.y), percent(p.stderr)))
            })
            .collect();
        let lead = format!("Held out together: {}. Tuned on {}.", self.ablated(results), said.join(", "));
        let figure = Figure::Bars(Bars {
            title: "What the tuning's prompts say".into(),
            text: "Mean over the held-out clusters, asked by instruction but for the last row. The paper's section 4.3: 55.2, 37.3, 46.6 and 47.0.".into(),
            axis: "right answers".into(),
            unit: Unit::Percent,
            range: Some((0.0, 1.0)),
            series: vec!["tuned".into()],
            marks: vec!["published, FLAN 137B".into(), "base, best of three".into()],
            groups,
        });
        self.one("Instructions, or only tasks", vec![lead], figure)
    }

    fn few_shot(&self, results: &Results) -> Findings {
        let of = |s: &str, shots: f64, cluster: &str| -> Option<Value> {
            let cells: Vec<&(Cell, Vec<Marks>)> =
                results.iter().filter(|(c, _)| c.series == s && c.x == shots && c.ask == [cluster]).collect();
            let scores: Vec<f64> = match s {
                "base" => cells.iter().map(|cell| base_at_best(std::slice::from_ref(*cell), None)).collect(),
                _ => cells
                    .iter()
                    .flat_map(|cell| curve(std::slice::from_ref(*cell), s, Asked::Flan))
                    .map(|p| p.y)
                    .collect(),
            };
            let m = Mean::of(&scores)?;
            Some(m.stderr.map_or(m.value.into(), |e| Value::with_error(m.value, e)))
        };
        let shots = self.world.shots as f64;
        let groups: Vec<Group> = self
            .world
            .evaluated
            .iter()
            .map(|c| Group {
                label: self.title(c),
                note: None,
                values: vec![
                    of("base", 0.0, c),
                    of("base", shots, c),
                    of("tuned", 0.0, c),
                    of("tuned", shots, c),
                ],
                marks: vec![],
            })
            .collect();
        let means: Vec<String> = (0..4)
            .map(|i| percent(mean(groups.iter().filter_map(|g| g.values[i].as_ref()).map(|v| v.value))))
            .collect();
        let lead = format!(
            "Means over clusters: base {} without and {} with {} solved examples, tuned {} without and {} with.",
            means[0], means[1], self.world.shots, means[2], means[3]
        );
        let figure = Figure::Bars(Bars {
            title: "Solved examples in front".into(),
            text: "Each cluster held out in turn. The paper's section 4.4 finds that examples help everywhere, most where the space of answers is large.".into(),
            axis: "right answers".into(),
            unit: Unit::Percent,
            range: Some((0.0, 1.0)),
            series: vec![
                "base, 0 shots".into(),
                format!("base, {} shots", self.world.shots),
                "tuned, 0 shots".into(),
                format!("tuned, {} shots", self.world.shots),
            ],
            marks: vec![],
            groups,
        });
        self.one("Few-shot prompts", vec![lead], figure)
    }

    fn options(&self, results: &Results) -> Findings {
        let (flan, plain) = (curve(results, "tuned", Asked::Flan), curve(results, "tuned", Asked::Plain));
        let said = |points: &[Point]| points.iter().map(|p| percent(p.y)).collect::<Vec<_>>().join(", ");
        let lead = format!(
            "Held out together: {}. With options in 0, 25, 50, 75 and 100 percent of the tuning's prompts: {} asked with options, {} without; the base at its \
             best has {}.",
            self.ablated(results),
            said(&flan),
            said(&plain),
            percent(base_at_best(results, None))
        );
        let figure = Figure::Lines(Lines {
            title: "How many prompts list their options".into(),
            text: "Mean over the held-out clusters and seeds, one standard error.".into(),
            x: axis(
                "share of the tuning's prompts with options",
                Unit::Percent,
                Scale::Linear,
                Some((0.0, 1.0)),
            ),
            y: axis("right answers", Unit::Percent, Scale::Linear, None),
            series: vec![series("asked with options", &flan), series("asked without", &plain)],
            levels: Self::level(results),
        });
        self.one("The OPTIONS block", vec![lead], figure)
    }

    fn templates(&self, results: &Results) -> Findings {
        let mut names: Vec<&str> =
            results.iter().filter(|(c, _)| c.set.is_some()).map(|(c, _)| c.series.as_str()).collect();
        names.dedup();
        let lines: Vec<Series> = names
            .iter()
            .map(|s| series(&format!("{s} a cluster"), &curve(results, s, Asked::Flan)))
            .collect();
        let said: Vec<String> = names
            .iter()
            .map(|s| {
                let points = curve(results, s, Asked::Flan);
                let at = points.iter().map(|p| format!("{} ({} templates)", percent(p.y), p.x));
                format!("{s}: {}", at.collect::<Vec<_>>().join(", "))
            })
            .collect();
        let lead = format!("Held out together: {}. {}.", self.ablated(results), said.join("; "));
        let figure = Figure::Lines(Lines {
            title: "Templates by datasets".into(),
            text: "Mean over the held-out clusters and seeds, one standard error. The paper (appendix C) gains almost ten points from four datasets a cluster instead of one, and \
                   hardly anything from more templates."
                .into(),
            x: axis("templates of a dataset", Unit::Plain, Scale::Linear, None),
            y: axis("right answers", Unit::Percent, Scale::Linear, None),
            series: lines,
            levels: Self::level(results),
        });
        self.one("Templates and datasets", vec![lead], figure)
    }
}
