//! Labelled rows: what a row of each dataset says, drawn from the world's tables, in no particular wording.
//!
//! Where options differ from row to row they are drawn as a set first and the one that is asked for is chosen after (the
//! *class*), so the options alone say nothing about the answer. Sentences about a person belong to a split by person and line of their
//! table together, so that no line is more frequent on one side; other sentences by their text.

use super::words::*;
use super::{Draw, a, bare, cap, hash};
use serde_json::{Map, Value, json};

/// Which part of the world's sentences a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// For tuning: five eighths of the sentences.
    Train,
    /// For choosing a template: one eighth.
    Dev,
    /// For reporting: a quarter.
    Test,
}

impl Split {
    fn of(share: u64) -> Self {
        match share % 8 {
            0 | 1 => Self::Test,
            2 => Self::Dev,
            _ => Self::Train,
        }
    }
}

/// A row of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The columns that the dataset's file names: texts, `options` where the row has its own, `label`.
    pub columns: Map<String, Value>,
    /// Its sentences, each of them of the row's split alone.
    pub sentences: Vec<String>,
    /// The same question as the documents would go on: a text that breaks off before the answer.
    pub cloze: String,
    /// The ways to go on, in the order of the options, behind a space.
    pub cloze_options: Vec<String>,
    /// Which of them is right.
    pub answer: usize,
}

/// A row before it has a place in a split.
struct Draft {
    columns: Vec<(&'static str, String)>,
    /// By class; empty for a dataset with fixed labels.
    options: Vec<String>,
    sentences: Vec<String>,
    /// The shares that its sentences and facts belong to.
    shares: Vec<Split>,
    cloze: String,
    /// By class; empty where they are the options.
    endings: Vec<String>,
}

type Make = fn(&mut Draw, class: usize) -> Draft;

/// The datasets: name, number of options, maker. Their cluster is that of `tasks/micro_world/`.
pub const DATASETS: [(&str, usize, Maker); 25] = [
    ("follows", 2, Maker(follows)),
    ("work_follows", 2, Maker(work_follows)),
    ("where_is", 2, Maker(where_is)),
    ("who_has", 2, Maker(who_has)),
    ("animal_fact", 3, Maker(animal_fact)),
    ("job_fact", 3, Maker(job_fact)),
    ("effect", 2, Maker(effect)),
    ("need", 3, Maker(need)),
    ("because", 2, Maker(because)),
    ("fit", 2, Maker(fit)),
    ("who_needs", 2, Maker(who_needs)),
    ("who_caused", 2, Maker(who_caused)),
    ("review", 2, Maker(review)),
    ("feeling", 2, Maker(feeling)),
    ("same_meaning", 2, Maker(same_meaning)),
    ("swapped", 2, Maker(swapped)),
    ("from_velu", 4, Maker(from_velu)),
    ("into_velu", 4, Maker(into_velu)),
    ("card", 2, Maker(card)),
    ("plan", 3, Maker(plan)),
    ("topic", 3, Maker(topic)),
    ("portrait", 3, Maker(portrait)),
    ("size", 2, Maker(size)),
    ("kind", 2, Maker(kind)),
    ("question_kind", 4, Maker(question_kind)),
];

/// How a dataset's rows are made.
#[derive(Clone, Copy)]
pub struct Maker(Make);

/// Up to `n` different rows of a dataset's split, labels balanced, the same for every call; fewer where its closed lists hold no
/// more. None if there is no such dataset.
pub fn rows(dataset: &str, split: Split, n: usize) -> Option<Vec<Row>> {
    const TRIES: usize = 20_000;
    let (name, classes, Maker(make)) = DATASETS.into_iter().find(|d| d.0 == dataset)?;
    let mut d = Draw::new(0, &format!("{name}/{split:?}"));
    let (mut found, mut seen) = (Vec::new(), std::collections::HashSet::new());
    'rows: while found.len() < n {
        let class = found.len() % classes;
        for _ in 0..TRIES {
            let draft = make(&mut d, class);
            if draft.shares.iter().any(|&s| s != split) {
                continue;
            }
            // The same question with its options in another order is no new one.
            let mut options = draft.options.clone();
            options.sort_unstable();
            if seen.insert((draft.columns.clone(), options)) {
                found.push(draft.row(&mut d, class));
                continue 'rows;
            }
        }
        break;
    }
    found.truncate(found.len() / classes * classes);
    d.shuffle(&mut found);
    Some(found)
}

impl Draft {
    fn row(self, d: &mut Draw, class: usize) -> Row {
        let said = |text: &String| format!(" {text}");
        let mut columns: Map<String, Value> =
            self.columns.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
        let endings = if self.endings.is_empty() { &self.options } else { &self.endings };
        let mut order: Vec<usize> = (0..endings.len()).collect();
        if !self.options.is_empty() {
            d.shuffle(&mut order);
            columns.insert("options".into(), order.iter().map(|&i| json!(self.options[i])).collect());
        }
        let answer = order.iter().position(|&i| i == class).unwrap_or_default();
        columns.insert("label".into(), answer.into());
        Row {
            columns,
            sentences: self.sentences,
            cloze: self.cloze,
            cloze_options: order.iter().map(|&i| said(&endings[i])).collect(),
            answer,
        }
    }
}

/// The parts of a text that end with a full stop, a question mark, a colon, a line or a quotation mark, without those.
pub fn sentences(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(['.', '?', '!', '"', '\n', ':', ';']);
    let trimmed = parts.map(|part| part.trim_matches([' ', ',', '-']).to_lowercase());
    trimmed.filter(|part| part.split(' ').count() > 2)
}

fn texts<const N: usize>(items: [&str; N]) -> Vec<String> {
    items.map(String::from).to_vec()
}

/// The split of what person number `who` has, does or is by line number `line` of a table.
fn line(who: usize, line: usize) -> Split {
    Split::of((who + line) as u64)
}

/// The split of a text by what it says.
fn text(text: &str) -> Split {
    Split::of(hash(text) >> 20)
}

fn name(who: usize) -> &'static str {
    PEOPLE.as_flattened()[who]
}

fn anyone(d: &mut Draw) -> usize {
    d.below(PEOPLE.as_flattened().len())
}

const YES_NO: [&str; 2] = ["Yes", "No"];

/// Two kinds by number of the same split in place number `place`: the kinds go round the places in pairs.
fn kinds_in(d: &mut Draw, place: usize) -> ([usize; 2], Split) {
    let group = d.below(4);
    let members: Vec<usize> = (0..KINDS.len()).filter(|k| (k + place) % KINDS.len() / 2 == group).collect();
    (d.distinct(&members), [Split::Test, Split::Dev, Split::Train, Split::Train][group])
}

fn follows(d: &mut Draw, class: usize) -> Draft {
    let place = d.below(PLACES.len());
    let (kinds, share) = kinds_in(d, place);
    let (item, place) = (d.pick(&KINDS[kinds[0]].1), PLACES[place]);
    let line = format!("There is {} in the {place}.", a(item));
    let claim = format!("there is {} in the {place}", a(KINDS[kinds[class]].0));
    Draft {
        sentences: vec![line.clone(), claim.clone()],
        cloze: format!("{line} Is there {} in the {place}?", a(KINDS[kinds[class]].0)),
        columns: vec![("text", line), ("claim", claim)],
        options: vec![],
        shares: vec![share],
        endings: texts(YES_NO),
    }
}

fn work_follows(d: &mut Draw, class: usize) -> Draft {
    let who = anyone(d);
    let jobs: [usize; 2] = d.places(JOBS.len());
    let n = name(who);
    let text = format!("{n} is {}.", a(JOBS[jobs[0]].name));
    let claim = format!("{n} {}", JOBS[jobs[class]].work);
    Draft {
        sentences: vec![text.clone(), claim.clone()],
        cloze: format!("{text} Is it so that {claim}?"),
        columns: vec![("text", text), ("claim", claim)],
        options: vec![],
        shares: vec![line(who, jobs[0]), line(who, jobs[1])],
        endings: texts(YES_NO),
    }
}

fn where_is(d: &mut Draw, class: usize) -> Draft {
    let (who, at): ([usize; 2], [usize; 2]) = (d.places(PEOPLE.as_flattened().len()), d.places(PLACES.len()));
    let (n, p) = (who.map(name), at.map(|i| PLACES[i]));
    let text = format!("{} is in the {}. {} is in the {}.", n[0], p[0], n[1], p[1]);
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} To meet {}, go to the", n[class]),
        columns: vec![("text", text), ("name", n[class].into())],
        options: texts(p),
        shares: vec![line(who[0], at[0]), line(who[1], at[1])],
        endings: vec![],
    }
}

/// Two people and what they have: coloured things.
fn owners(d: &mut Draw) -> ([usize; 2], [String; 2], Vec<Split>) {
    let (who, things): ([usize; 2], [usize; 2]) =
        (d.places(PEOPLE.as_flattened().len()), d.places(THINGS.len()));
    let colours = [d.below(COLOURS.len()), d.below(COLOURS.len())];
    let shares = (0..2).map(|i| line(who[i], 3 * things[i] + colours[i])).collect();
    (who, std::array::from_fn(|i| format!("{} {}", COLOURS[colours[i]], THINGS[things[i]])), shares)
}

fn who_has(d: &mut Draw, class: usize) -> Draft {
    let (who, things, shares) = owners(d);
    let n = who.map(name);
    let text = format!("{} has {}. {} has {}.", n[0], a(&things[0]), n[1], a(&things[1]));
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} The {} is with", things[class]),
        columns: vec![("text", text), ("thing", things[class].clone())],
        options: texts(n),
        shares,
        endings: vec![],
    }
}

/// `K` members by number that a closed-book question of topic number `topic` may be about together: of one split, with different values.
fn known<const K: usize>(d: &mut Draw, values: &[&'static str], topic: usize) -> ([usize; K], Split) {
    loop {
        let three: [usize; K] = d.places(values.len());
        let share = line(three[0], topic);
        let fits = |i: usize| !values[three[i]].is_empty() && line(three[i], topic) == share;
        let differ = (1..K).all(|i| (0..i).all(|j| values[three[i]] != values[three[j]]));
        if (0..K).all(fits) && differ {
            return (three, share);
        }
    }
}

/// A closed-book question of topic number `topic` about one of three of `all`, names with their values.
fn fact(
    d: &mut Draw,
    class: usize,
    all: &[(&'static str, &'static str)],
    topic: usize,
    [label, phrase, question]: [&str; 3],
    cloze: impl Fn(&str) -> String,
) -> Draft {
    let values: Vec<&str> = all.iter().map(|x| x.1).collect();
    let (three, share) = known::<3>(d, &values, topic);
    let n = all[three[class]].0;
    Draft {
        columns: vec![
            ("name", n.into()),
            ("topic", label.into()),
            ("phrase", phrase.into()),
            ("question", question.replace("{}", n)),
        ],
        options: texts(three.map(|i| values[i])),
        sentences: vec![],
        shares: vec![share],
        cloze: cloze(n),
        endings: vec![],
    }
}

fn animal_fact(d: &mut Draw, class: usize) -> Draft {
    type Ask = (fn(&Animal) -> &'static str, &'static str, &'static str, &'static str, &'static str);
    const ASKS: [Ask; 3] = [
        (|x| x.home, "home", "lives in the", "Where does the {} live?", "lives in the"),
        (|x| x.food, "food", "likes to eat", "What does the {} eat?", "eats"),
        (|x| x.sound, "sound", "says", "What does the {} say?", "says"),
    ];
    let topic = d.below(3);
    let (value, label, phrase, question, verb) = ASKS[topic];
    let all: Vec<_> = ANIMALS.iter().map(|x| (x.name, value(x))).collect();
    fact(d, class, &all, topic, [label, phrase, question], |n| format!("{} {verb}", cap(&a(n))))
}

fn job_fact(d: &mut Draw, class: usize) -> Draft {
    type Ask = (fn(&Job) -> &'static str, &'static str, &'static str, &'static str, &'static str);
    const ASKS: [Ask; 3] = [
        (|x| x.work, "work", "usually", "What does the {} do?", "Every day the {}"),
        (
            |x| x.place,
            "place of work",
            "works in the",
            "Where does the {} work?",
            "Every day the {} goes to the",
        ),
        (|x| x.tool, "tool", "needs the", "What does the {} use?", "The tool of the {} is the"),
    ];
    let topic = d.below(3);
    let (value, label, phrase, question, cloze) = ASKS[topic];
    let all: Vec<_> = JOBS.iter().map(|x| (x.name, value(x))).collect();
    fact(d, class, &all, topic, [label, phrase, question], |n| cloze.replace("{}", n))
}

/// Two events by number whose effects could not follow each other's causes.
fn events(d: &mut Draw) -> [usize; 2] {
    loop {
        let two: [usize; 2] = d.places(EVENTS.len());
        if EVENTS[two[0]].group != EVENTS[two[1]].group {
            return two;
        }
    }
}

fn effect(d: &mut Draw, class: usize) -> Draft {
    let (who, two) = (anyone(d), events(d));
    let Event { cause, thing, .. } = EVENTS[two[class]];
    let text = format!("{} {cause}.", name(who));
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} The {thing}"),
        columns: vec![("text", text), ("thing", thing.into())],
        options: texts(two.map(|i| EVENTS[i].effect)),
        shares: vec![line(who, two[class])],
        endings: vec![],
    }
}

fn need(d: &mut Draw, class: usize) -> Draft {
    let (who, three): (usize, [usize; 3]) = (anyone(d), d.places(NEEDS.len()));
    let n = name(who);
    let text = format!("{n} {}.", NEEDS[three[class]].0);
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} {n} needs"),
        columns: vec![("text", text), ("name", n.into())],
        options: texts(three.map(|i| bare(NEEDS[i].1))),
        shares: vec![line(who, three[class])],
        endings: texts(three.map(|i| NEEDS[i].1)),
    }
}

fn because(d: &mut Draw, class: usize) -> Draft {
    let gender = d.below(2);
    let [one, two] = d.distinct::<_, 2>(&PEOPLE[gender]);
    let (does, reason) = d.pick(&BECAUSE[class]);
    let p = ["she", "he"][gender];
    let line = format!("{one} {} because {p} {reason}.", does.replace("{b}", two));
    Draft {
        sentences: vec![line.clone()],
        shares: vec![text(&line)],
        cloze: format!("{line} It was"),
        columns: vec![("text", line), ("reason", reason.into()), ("pronoun", p.into())],
        options: texts([one, two]),
        endings: vec![],
    }
}

fn fit(d: &mut Draw, class: usize) -> Draft {
    let (verb, things, holes, sizes) = d.pick(&FITS);
    let (thing, hole) = (d.pick(things), d.pick(holes));
    let line = format!("The {thing} {verb} the {hole} because it is too {}.", sizes[class]);
    Draft {
        sentences: vec![line.clone()],
        // Both sizes of a pair together: else the one seen in tuning gives the other away.
        shares: vec![text(&format!("{thing} {hole}"))],
        cloze: format!("{line} It is the"),
        columns: vec![("text", line), ("size", sizes[class].into())],
        options: texts([thing, hole]),
        endings: vec![],
    }
}

fn who_needs(d: &mut Draw, class: usize) -> Draft {
    let (who, needs): ([usize; 2], [usize; 2]) =
        (d.places(PEOPLE.as_flattened().len()), d.places(NEEDS.len()));
    let (n, item) = (who.map(name), NEEDS[needs[class]].1);
    let text = format!("{} {}. {} {}.", n[0], NEEDS[needs[0]].0, n[1], NEEDS[needs[1]].0);
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} The one who needs {item} is"),
        columns: vec![("text", text), ("item", item.into())],
        options: texts(n),
        shares: vec![line(who[0], needs[0]), line(who[1], needs[1])],
        endings: vec![],
    }
}

fn who_caused(d: &mut Draw, class: usize) -> Draft {
    let (who, two): ([usize; 2], _) = (d.places(PEOPLE.as_flattened().len()), events(d));
    let (n, effect) = (who.map(name), EVENTS[two[class]].effect);
    let text = format!("{} {}. {} {}.", n[0], EVENTS[two[0]].cause, n[1], EVENTS[two[1]].cause);
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} It is on account of this person that {} {effect}:", whatever(effect)),
        columns: vec![("text", text), ("effect", effect.into())],
        options: texts(n),
        shares: vec![line(who[0], two[0]), line(who[1], two[1])],
        endings: vec![],
    }
}

/// A reviewer's sentence about an item.
pub(super) fn opinion(d: &mut Draw, class: usize, item: &str) -> String {
    let word = d.pick(&OPINIONS[class]);
    match d.below(4) {
        0 => format!("The {item} was {word}."),
        1 => format!("What {} {item}!", a(word)),
        2 => format!("I found the {item} {word}."),
        _ => format!("It was {} {item}.", a(word)),
    }
}

/// What a reviewer says: an opinion, a remark, or both.
pub(super) fn judgement(d: &mut Draw, class: usize, item: &str) -> Vec<String> {
    let (first, remark) = (opinion(d, class, item), d.pick(&REMARKS[class]).replace("{item}", item));
    match d.below(3) {
        0 => vec![first],
        1 => vec![remark],
        _ => vec![first, remark],
    }
}

fn review(d: &mut Draw, class: usize) -> Draft {
    let item = d.pick(&REVIEWED);
    let said = judgement(d, class, item);
    let whole = said.join(" ");
    Draft {
        shares: said.iter().map(|s| text(s)).collect(),
        sentences: said,
        cloze: format!("{} wrote about the {item}: \"{whole}\" The writer has a", name(anyone(d))),
        columns: vec![("text", whole), ("item", item.into())],
        options: vec![],
        endings: texts(["positive", "negative"]),
    }
}

fn feeling(d: &mut Draw, class: usize) -> Draft {
    let (who, what) = (anyone(d), d.below(FORTUNES[0].len()));
    let n = name(who);
    let text = format!("{n} {}.", FORTUNES[class][what]);
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} {n} was"),
        columns: vec![("text", text), ("name", n.into())],
        options: vec![],
        shares: vec![line(who, what)],
        endings: texts(["happy", "sad"]),
    }
}

/// Words of form `form` in a sentence of their own.
pub(super) fn say(form: usize, who: &str, thing: &str, word: &str) -> String {
    match form {
        0 => format!("{who} {word} the {thing}."),
        1 => format!("{who} {word}."),
        _ => format!("The {thing} is {word}."),
    }
}

fn same_meaning(d: &mut Draw, class: usize) -> Draft {
    let form = d.below(3);
    let [x, y] = d.distinct::<_, 2>(SYNONYMS[form]);
    let (n, thing) = (name(anyone(d)), d.pick(&THINGS));
    let mut words = [x.0, [x.1, y.1][class]];
    d.shuffle(&mut words);
    pair(words.map(|word| say(form, n, thing, word)))
}

/// Two sentences that mean the same or do not.
fn pair([first, second]: [String; 2]) -> Draft {
    Draft {
        sentences: vec![first.clone(), second.clone()],
        shares: vec![text(&first), text(&second)],
        cloze: format!("{first} {second} In meaning the two are"),
        columns: vec![("first", first), ("second", second)],
        options: vec![],
        endings: texts(["the same", "different"]),
    }
}

/// Both sides of a deal: `{a}` does something with `{t}` and `{b}`, told from either end.
pub(super) const DEALS: [[&str; 2]; 4] = [
    ["{a} gave the {t} to {b}.", "{b} got the {t} from {a}."],
    ["{a} sold the {t} to {b}.", "{b} bought the {t} from {a}."],
    ["{a} lent the {t} to {b}.", "{b} borrowed the {t} from {a}."],
    ["{a} sent the {t} to {b}.", "{b} received the {t} from {a}."],
];

pub(super) fn deal(form: &str, one: &str, two: &str, thing: &str) -> String {
    form.replace("{a}", one).replace("{b}", two).replace("{t}", thing)
}

fn swapped(d: &mut Draw, class: usize) -> Draft {
    let (mut who, thing) = (d.distinct::<_, 2>(PEOPLE.as_flattened()), d.pick(&THINGS));
    let mut forms = d.pick(&DEALS);
    d.shuffle(&mut forms);
    let first = deal(forms[0], who[0], who[1], thing);
    if class == 1 {
        who.swap(0, 1);
    }
    pair([first, deal(forms[1], who[0], who[1], thing)])
}

/// Two colours and two things by number, all four of their pairs in the same split.
fn four(d: &mut Draw) -> ([usize; 2], [usize; 2], Split) {
    loop {
        let (colours, things): ([usize; 2], [usize; 2]) = (d.places(COLOURS.len()), d.places(THINGS.len()));
        let shares = [0, 1, 2, 3].map(|i| phrase_split(colours[i / 2], things[i % 2]));
        if shares.iter().all(|s| *s == shares[0]) {
            return (colours, things, shares[0]);
        }
    }
}

/// The split of a coloured thing, where it is translated: rectangles of two colours and two things.
pub(super) fn phrase_split(colour: usize, thing: usize) -> Split {
    Split::of((colour / 2 + thing / 2) as u64)
}

pub(super) fn velu(colour: usize, thing: usize) -> String {
    format!("{} {}", VELU_THINGS[thing], VELU_COLOURS[colour])
}

pub(super) fn english(colour: usize, thing: usize) -> String {
    format!("{} {}", COLOURS[colour], THINGS[thing])
}

fn translated(d: &mut Draw, class: usize, from: Phrase, to: Phrase, cloze: fn(&str) -> String) -> Draft {
    let (colours, things, share) = four(d);
    let all = [0, 1, 2, 3].map(|i| (colours[i / 2], things[i % 2]));
    let phrase = from(all[class].0, all[class].1);
    Draft {
        sentences: vec![],
        shares: vec![share],
        cloze: cloze(&phrase),
        columns: vec![("phrase", phrase)],
        options: all.map(|(c, t)| to(c, t)).to_vec(),
        endings: vec![],
    }
}

type Phrase = fn(usize, usize) -> String;

fn from_velu(d: &mut Draw, class: usize) -> Draft {
    translated(d, class, velu, english, |phrase| format!("{} is Velu for", cap(phrase)))
}

fn into_velu(d: &mut Draw, class: usize) -> Draft {
    translated(d, class, english, velu, |phrase| format!("To say {phrase} in Velu, say"))
}

fn card(d: &mut Draw, class: usize) -> Draft {
    let (who, things, shares) = owners(d);
    let n = who.map(name);
    let card = format!("name: {}\nthing: {}\nname: {}\nthing: {}", n[0], things[0], n[1], things[1]);
    Draft {
        sentences: vec![],
        cloze: format!("{card}\nThe {} is with", things[class]),
        columns: vec![("card", card), ("thing", things[class].clone())],
        options: texts(n),
        shares,
        endings: vec![],
    }
}

fn plan(d: &mut Draw, class: usize) -> Draft {
    let who = anyone(d);
    let (mut days, at): ([usize; 3], [usize; 3]) = (d.places(DAYS.len()), d.places(PLACES.len()));
    days.sort_unstable();
    let n = name(who);
    let lines: Vec<String> = (0..3).map(|i| format!("{}: {}", DAYS[days[i]], PLACES[at[i]])).collect();
    let card = format!("name: {n}\n{}", lines.join("\n"));
    let day = DAYS[days[class]];
    Draft {
        sentences: vec![],
        cloze: format!("{card}\nOn {day} {n} is in the"),
        columns: vec![("card", card), ("name", n.into()), ("day", day.into())],
        options: texts(at.map(|i| PLACES[i])),
        shares: at.map(|i| line(who, i)).to_vec(),
        endings: vec![],
    }
}

/// What people do with things of all kinds.
pub(super) const DEEDS: [&str; 4] = ["saw", "drew", "thought of", "talked about"];

pub(super) fn plural_kind(kind: &str) -> String {
    if kind == "fruit" { kind.into() } else { format!("{kind}s") }
}

fn topic(d: &mut Draw, class: usize) -> Draft {
    let kinds: [usize; 3] = d.places(KINDS.len());
    let items: [usize; 3] = d.places(6);
    let who: [usize; 3] = d.places(PEOPLE.as_flattened().len());
    let members = KINDS[kinds[class]].1;
    let lines = [0, 1, 2].map(|i| format!("{} {} {}.", name(who[i]), d.pick(&DEEDS), a(members[items[i]])));
    let text = lines.join(" ");
    Draft {
        sentences: vec![text.clone()],
        shares: (0..3).map(|i| line(who[i], kinds[class] * 6 + items[i])).collect(),
        cloze: format!("{text} These are all"),
        columns: vec![("text", text)],
        options: kinds.map(|k| plural_kind(KINDS[k].0)).to_vec(),
        endings: vec![],
    }
}

fn portrait(d: &mut Draw, class: usize) -> Draft {
    let (who, jobs): (usize, [usize; 3]) = (anyone(d), d.places(JOBS.len()));
    let (n, Job { work, place, tool, .. }) = (name(who), JOBS[jobs[class]]);
    let mut lines =
        [format!("{n} {work}."), format!("{n} works in {}.", a(place)), format!("{n} uses {}.", a(tool))];
    d.shuffle(&mut lines);
    let text = lines.join(" ");
    Draft {
        sentences: vec![text.clone()],
        cloze: format!("{text} {n} must be the"),
        columns: vec![("text", text), ("name", n.into())],
        options: texts(jobs.map(|i| JOBS[i].name)),
        shares: vec![line(who, jobs[class])],
        endings: vec![],
    }
}

fn size(d: &mut Draw, class: usize) -> Draft {
    let small = d.below(ANIMALS.len() - SIZE_GAP);
    let big = small + SIZE_GAP + d.below(ANIMALS.len() - small - SIZE_GAP);
    let mut pair = [ANIMALS[small].name, ANIMALS[big].name];
    let (options, more) = (pair, ["smaller", "bigger"][class]);
    d.shuffle(&mut pair);
    Draft {
        sentences: vec![],
        shares: vec![text(&options.join(" "))],
        cloze: format!("{} and {} met. The {more} of them was the", cap(&a(pair[0])), a(pair[1])),
        columns: vec![("first", a(pair[0])), ("second", a(pair[1])), ("more", more.into())],
        options: texts(options),
        endings: vec![],
    }
}

fn kind(d: &mut Draw, class: usize) -> Draft {
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let mut items = two.map(|(_, members)| d.pick(&members));
    let is =
        if d.coin() { format!("is {}", a(two[class].0)) } else { format!("is not {}", a(two[1 - class].0)) };
    let options = items;
    d.shuffle(&mut items);
    let line = format!("{} drew {} and {}.", name(anyone(d)), a(items[0]), a(items[1]));
    Draft {
        sentences: vec![line.clone()],
        shares: vec![text(&line)],
        cloze: format!("{line} Only one {is}: the"),
        columns: vec![("text", line), ("is", is)],
        options: texts(options),
        endings: vec![],
    }
}

/// What a question asks for, as a word: a person, a place, a thing or a day.
pub(super) const ASKED: [&str; 4] = ["person", "place", "thing", "day"];

/// A question that asks for number `class` of [`ASKED`].
pub(super) fn question(d: &mut Draw, class: usize) -> String {
    let (n, p, t) = (name(anyone(d)), d.pick(&PLACES), d.pick(&THINGS));
    let colour = d.pick(&COLOURS);
    let forms: [&str; 3] = match class {
        0 => ["Who has the {c} {t}?", "Who is in the {p}?", "Whom did {n} meet in the {p}?"],
        1 => ["Where is {n}?", "Where did {n} leave the {c} {t}?", "Where can I see the {t} of {n}?"],
        2 => [
            "What did {n} buy in the {p}?",
            "What does {n} want from the {p}?",
            "What is the {c} thing of {n}?",
        ],
        _ => ["When is {n} in the {p}?", "When did {n} buy the {c} {t}?", "When will {n} go to the {p}?"],
    };
    d.pick(&forms).replace("{n}", n).replace("{p}", p).replace("{t}", t).replace("{c}", colour)
}

fn question_kind(d: &mut Draw, class: usize) -> Draft {
    let question = question(d, class);
    Draft {
        sentences: vec![question.clone()],
        shares: vec![text(&question)],
        cloze: format!("\"{question}\" This asks for a"),
        columns: vec![("question", question)],
        options: vec![],
        endings: texts(ASKED),
    }
}
