//! The makers of labelled rows: what a row of each task kind says, drawn from the world's tables, in no particular wording.
//!
//! Where options differ from row to row they are drawn as a set first and the one that is asked for is chosen after (the
//! `class`), so the options alone say nothing about the answer. Wordings are in `tasks`, splits and prompts in `rows`.

use super::words::*;
use super::{Draw, a, bare, cap, hash};
use crate::rng::Rng;

/// What a row says, in no particular wording.
pub(super) struct Row {
    /// Names the combination of facts; equal prompts have equal keys, and a split owns whole keys.
    pub(super) key: String,
    /// The key as a number: one key in four is for testing.
    pub(super) share: u64,
    pub(super) slots: Vec<(&'static str, String)>,
    /// By class; empty for a task with fixed labels.
    pub(super) options: Vec<String>,
}

impl Row {
    /// A row whose split its key decides by hash.
    fn new(key: String, slots: Vec<(&'static str, String)>, options: Vec<String>) -> Self {
        Self { share: Rng::new(0, hash(&key)).bits(0) >> 32, key, slots, options }
    }

    /// A row about the `who`-th person and the `what`-th line of a short list: every line is tested with every fourth person, so
    /// that no answer is more frequent on one side.
    fn in_turn(mut self, who: usize, what: usize) -> Self {
        self.share = (who + what) as u64;
        self
    }
}

fn anyone(d: &mut Draw) -> &'static str {
    d.pick(PEOPLE.as_flattened())
}

/// The words as a sorted, joined set.
fn set(mut words: Vec<&str>) -> String {
    words.sort_unstable();
    words.join("+")
}

pub(super) fn review(d: &mut Draw, class: usize) -> Row {
    let (item, word, remark) = (d.pick(&REVIEWED), d.pick(&OPINIONS[class]), d.pick(&REMARKS[class]));
    let first = match d.below(4) {
        0 => format!("The {item} was {word}."),
        1 => format!("What {} {item}!", a(word)),
        2 => format!("I found the {item} {word}."),
        _ => format!("It was {} {item}.", a(word)),
    };
    let (key, text) = match d.below(3) {
        0 => (format!("{item} {word}"), first),
        1 => (format!("{item} {word} {remark}"), format!("{first} {remark}")),
        _ => (format!("{item} {remark}"), format!("We tried the {item}. {remark}")),
    };
    Row::new(key, vec![("text", text), ("item", item.into())], vec![])
}

pub(super) fn feeling(d: &mut Draw, class: usize) -> Row {
    let (who, what) = (d.below(24), d.below(12));
    let n = PEOPLE.as_flattened()[who];
    let text = format!("{n} {}.", FORTUNES[class][what]);
    Row::new(text.clone(), vec![("text", text), ("n", n.into())], vec![]).in_turn(who, what)
}

/// The row that asks about the member number `class` of the drawn `names`, whose values are the options.
fn fact(names: &[&str], values: Vec<&str>, class: usize, topic: &str, phrase: &str, ask: &str) -> Row {
    let slots = [("name", names[class]), ("topic", topic), ("phrase", phrase), ("ask", ask)];
    Row::new(
        format!("{topic} {}", set(values.clone())),
        slots.map(|(slot, text)| (slot, text.to_string())).to_vec(),
        values.into_iter().map(String::from).collect(),
    )
}

pub(super) fn animal_fact(d: &mut Draw, class: usize) -> Row {
    type Ask = (fn(&Animal) -> &'static str, &'static str, &'static str, &'static str);
    let asks: [Ask; 3] = [
        (|x| x.home, "home", "lives in the", "Where does it live?"),
        (|x| x.food, "food", "likes to eat", "What does it eat?"),
        (|x| x.sound, "sound", "says", "What noise does it make?"),
    ];
    let (value, topic, phrase, ask) = d.pick(&asks);
    let known: Vec<Animal> = ANIMALS.into_iter().filter(|x| !value(x).is_empty()).collect();
    let three: [Animal; 3] = d.distinct_by(&known, value);
    fact(&three.map(|x| x.name), three.iter().map(value).collect(), class, topic, phrase, ask)
}

pub(super) fn job_fact(d: &mut Draw, class: usize) -> Row {
    type Ask = (fn(&Job) -> &'static str, &'static str, &'static str, &'static str);
    let asks: [Ask; 3] = [
        (|x| x.work, "daily task", "usually", "What does such a person do?"),
        (|x| x.place, "place of work", "works in the", "Where does the work go on?"),
        (|x| x.tool, "tool", "needs the", "Which tool is used?"),
    ];
    let (value, topic, phrase, ask) = d.pick(&asks);
    let three: [Job; 3] = d.distinct_by(&JOBS, value);
    fact(&three.map(|x| x.name), three.iter().map(value).collect(), class, topic, phrase, ask)
}

pub(super) fn effect(d: &mut Draw, class: usize) -> Row {
    let lines: Vec<usize> = (0..EVENTS.len()).collect();
    let two: [usize; 2] = d.distinct_by(&lines, |&i| EVENTS[i].group);
    let (who, Event { cause, thing, .. }) = (d.below(24), EVENTS[two[class]]);
    let text = format!("{} {cause}.", PEOPLE.as_flattened()[who]);
    Row::new(
        text.clone(),
        vec![("text", text), ("thing", thing.into())],
        two.iter().map(|&i| EVENTS[i].effect.into()).collect(),
    )
    .in_turn(who, two[class])
}

pub(super) fn need(d: &mut Draw, class: usize) -> Row {
    let lines: Vec<usize> = (0..NEEDS.len()).collect();
    let three: [usize; 3] = d.distinct(&lines);
    let who = d.below(24);
    let n = PEOPLE.as_flattened()[who];
    let text = format!("{n} {}.", NEEDS[three[class]].0);
    Row::new(
        text.clone(),
        vec![("text", text), ("n", n.into())],
        three.iter().map(|&i| bare(NEEDS[i].1).into()).collect(),
    )
    .in_turn(who, three[class])
}

pub(super) fn because(d: &mut Draw, class: usize) -> Row {
    let gender = d.below(2);
    let [one, two] = d.distinct::<_, 2>(&PEOPLE[gender]);
    let (does, reason) = d.pick(&BECAUSE[class]);
    let p = ["she", "he"][gender];
    Row::new(
        format!("{does} {}", set(vec![one, two])),
        vec![
            ("text", format!("{one} {} because {p} {reason}.", does.replace("{b}", two))),
            ("reason", reason.into()),
            ("p", p.into()),
        ],
        vec![one.into(), two.into()],
    )
}

pub(super) fn fit(d: &mut Draw, class: usize) -> Row {
    let (verb, things, holes, sizes) = d.pick(&FITS);
    let (thing, hole) = (d.pick(things), d.pick(holes));
    Row::new(
        format!("{thing} {hole}"),
        vec![
            ("text", format!("The {thing} {verb} the {hole} because it is too {}.", sizes[class])),
            ("size", sizes[class].into()),
        ],
        vec![thing.into(), hole.into()],
    )
}

pub(super) fn size(d: &mut Draw, class: usize) -> Row {
    let small = d.below(ANIMALS.len() - SIZE_GAP);
    let big = small + SIZE_GAP + d.below(ANIMALS.len() - small - SIZE_GAP);
    let mut pair = [ANIMALS[small].name, ANIMALS[big].name];
    let (options, more) = (pair, ["smaller", "bigger"][class]);
    d.shuffle(&mut pair);
    Row::new(
        options.join("+"),
        vec![("one", a(pair[0])), ("two", a(pair[1])), ("more", more.into())],
        options.map(String::from).to_vec(),
    )
}

pub(super) fn kind(d: &mut Draw, class: usize) -> Row {
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let mut items = two.map(|(_, members)| d.pick(&members));
    let is =
        if d.coin() { format!("is {}", a(two[class].0)) } else { format!("is not {}", a(two[1 - class].0)) };
    let options = items;
    d.shuffle(&mut items);
    Row::new(
        set(items.to_vec()),
        vec![("text", format!("{} drew {} and {}.", anyone(d), a(items[0]), a(items[1]))), ("is", is)],
        options.map(String::from).to_vec(),
    )
}

pub(super) fn where_is(d: &mut Draw, class: usize) -> Row {
    let (who, places) = (d.distinct::<_, 2>(PEOPLE.as_flattened()), d.distinct::<_, 2>(&PLACES));
    let text = format!("{} is in the {}. {} is in the {}.", who[0], places[0], who[1], places[1]);
    Row::new(text.clone(), vec![("text", text), ("n", who[class].into())], places.map(String::from).to_vec())
}

pub(super) fn who_has(d: &mut Draw, class: usize) -> Row {
    let (who, things) = (d.distinct::<_, 2>(PEOPLE.as_flattened()), d.distinct::<_, 2>(&THINGS));
    let things = things.map(|thing| format!("{} {thing}", d.pick(&COLOURS)));
    let text = format!("{} has {}. {} has {}.", who[0], a(&things[0]), who[1], a(&things[1]));
    Row::new(
        text.clone(),
        vec![("text", text), ("thing", things[class].clone())],
        who.map(String::from).to_vec(),
    )
}

pub(super) fn follows(d: &mut Draw, class: usize) -> Row {
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let (item, place) = (d.pick(&two[0].1), d.pick(&PLACES));
    let claim = format!("there is {} in the {place}", a(two[class].0));
    Row::new(
        format!("{item} {place}"),
        vec![
            ("text", format!("There is {} in the {place}.", a(item))),
            ("Claim", cap(&claim)),
            ("claim", claim),
        ],
        vec![],
    )
}

pub(super) fn same_meaning(d: &mut Draw, class: usize) -> Row {
    let form = d.below(3);
    let [x, y] = d.distinct::<_, 2>(SYNONYMS[form]);
    let (n, thing) = (anyone(d), d.pick(&THINGS));
    let mut words = [x.0, [x.1, y.1][class]];
    d.shuffle(&mut words);
    let lines = words.map(|word| match form {
        0 => format!("{n} {word} the {thing}."),
        1 => format!("{n} {word}."),
        _ => format!("The {thing} is {word}."),
    });
    let key = set(lines.iter().map(String::as_str).collect());
    let [one, two] = lines;
    Row::new(key, vec![("one", one), ("two", two)], vec![])
}
