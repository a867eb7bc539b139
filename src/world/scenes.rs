//! Writers of running text about people: stories, dialogue, talk about words and questions, choosing, lists.
//!
//! Each returns a piece of one to a few sentences; `prose` makes documents of them and holds the writers of single facts.

use super::prose::{a_pair_by_size, people};
use super::rows::{DEEDS, plural_kind};
use super::words::*;
use super::{Draw, a, bare};

/// Two or three people and where they are, what they have, or both; then sentences that need it, some about each.
pub(super) fn story(d: &mut Draw) -> String {
    let n = 2 + d.below(5) / 3;
    let (who, at): ([&str; 3], [&str; 3]) = (people(d), d.distinct(&PLACES));
    let things = things::<3>(d);
    let (places, haves) = [(true, false), (false, true), (true, true)][d.below(5) / 2];
    let mut text: Vec<String> = Vec::new();
    for i in 0..n {
        if places {
            text.push(format!("{} is in the {}.", who[i], at[i]));
        }
        if haves {
            text.push(format!("{} has {}.", who[i], a(&things[i])));
        }
    }
    for _ in 0..2 {
        let mut order: Vec<usize> = (0..n).collect();
        d.shuffle(&mut order);
        for (k, &i) in order.iter().enumerate() {
            let j = order[(k + 1) % n];
            let (x, p, s, y, q, t) = (who[i], at[i], &things[i], who[j], at[j], &things[j]);
            text.push(match d.below(12) {
                0..4 if places => format!("To meet {x}, go to the {p}."),
                4 if places => format!("The one in the {p} is {x}."),
                5 if places => format!("{x} is not in the {q}. {x} is in the {p}."),
                6 if places => format!("{x} goes to the {q} to see {y}."),
                7 if haves => format!("It is {x} who has the {s}."),
                8 if haves => format!("{x} does not have the {t}. That is what {y} has."),
                _ if haves => format!("The {s} is with {x}."),
                _ => format!("To meet {x}, go to the {p}."),
            });
        }
    }
    text.dedup();
    text.join(" ")
}

/// `K` different coloured things.
fn things<const K: usize>(d: &mut Draw) -> [String; K] {
    let all: [usize; K] = d.places(COLOURS.len() * THINGS.len());
    all.map(|i| format!("{} {}", COLOURS[i % COLOURS.len()], THINGS[i / COLOURS.len()]))
}

/// Three to five facts about as many people, then the same in another order.
pub(super) fn retold(d: &mut Draw) -> String {
    let n = 3 + d.below(3);
    let (who, at, things): ([&str; 5], [&str; 5], _) = (people(d), d.distinct(&PLACES), things::<5>(d));
    let (needs, jobs): ([usize; 5], [usize; 5]) = (d.places(NEEDS.len()), d.places(JOBS.len()));
    let form = d.below(5);
    let facts: Vec<String> = (0..n)
        .map(|i| match form {
            0 | 1 => format!("{} is in the {}.", who[i], at[i]),
            2 => format!("{} has {}.", who[i], a(&things[i])),
            3 => format!("{} {}.", who[i], NEEDS[needs[i]].0),
            _ => format!("{} is {}.", who[i], a(JOBS[jobs[i]].name)),
        })
        .collect();
    let mut again = facts.clone();
    d.shuffle(&mut again);
    format!("{} Once more: {}", facts.join(" "), again.join(" "))
}

/// Something said twice: what comes again is all in front of the reader.
pub(super) fn repeats(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let count = 3 + d.below(5);
    let mut words: Vec<String> = Vec::new();
    while words.len() < count {
        let word = match d.below(4) {
            0 => coloured(d),
            1 => d.pick(PEOPLE.as_flattened()).to_owned(),
            2 => d.pick(&PLACES).to_owned(),
            _ => {
                let kind = d.pick(&KINDS);
                d.pick(&kind.1).to_owned()
            }
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let said = words.join(", ");
    match d.below(4) {
        0 => format!("{n} says: {said}. {m} says it again: {said}."),
        1 => format!("{n} read: {said}. {m} read the same: {said}."),
        2 => {
            let lines = words.iter().map(|w| format!("- {w}")).collect::<Vec<_>>().join("\n");
            format!("{n} wrote a list.\n{lines}\n{m} wrote the same list.\n{lines}")
        }
        _ => {
            let i = d.below(count - 1);
            format!(
                "{n} says: {said}. The word after {} is {}. The last word is {}.",
                words[i],
                words[i + 1],
                words[count - 1]
            )
        }
    }
}

/// Records of who has what, read.
pub(super) fn cards(d: &mut Draw) -> String {
    let [x, y] = people(d);
    let (s, t) = (coloured(d), coloured(d));
    let card = format!("name: {x}\nthing: {s}\nname: {y}\nthing: {t}");
    if s == t {
        return format!("{card}\nBoth have {}.", a(&s));
    }
    let [(n, first), (m, second)] = if d.coin() { [(x, &s), (y, &t)] } else { [(y, &t), (x, &s)] };
    match d.below(4) {
        0 => format!("{card}\n{n} has {} and {m} has {}.", a(first), a(second)),
        _ => format!("{card}\nThe {first} is with {n}. The {second} is with {m}."),
    }
}

/// A person's week on a card, read.
pub(super) fn plans(d: &mut Draw) -> String {
    let [n] = people(d);
    let (mut days, at): ([usize; 3], [usize; 3]) = (d.places(DAYS.len()), d.places(PLACES.len()));
    days.sort_unstable();
    let lines: Vec<String> = (0..3).map(|i| format!("{}: {}", DAYS[days[i]], PLACES[at[i]])).collect();
    let mut order = [0, 1, 2];
    d.shuffle(&mut order);
    let read = order.iter().take(2).map(|&i| match d.below(4) {
        0 => format!("{n} goes to the {} on {}.", PLACES[at[i]], DAYS[days[i]]),
        _ => format!("On {} {n} is in the {}.", DAYS[days[i]], PLACES[at[i]]),
    });
    let read: Vec<String> = read.collect();
    format!("name: {n}\n{}\n{}", lines.join("\n"), read.join(" "))
}

/// Two people with a want each, and who is helped by what.
pub(super) fn who_needs(d: &mut Draw) -> String {
    let who: [&str; 2] = people(d);
    let needs: [(&str, &str); 2] = d.distinct(&NEEDS);
    let scene = format!("{} {}. {} {}.", who[0], needs[0].0, who[1], needs[1].0);
    let i = d.below(2);
    let (n, m, item, other) = (who[i], who[1 - i], needs[i].1, needs[1 - i].1);
    match d.below(5) {
        0..3 => format!("{scene} The one who needs {item} is {n}. The one who needs {other} is {m}."),
        3 => format!("{scene} Give {n} {item} and {m} {other}."),
        _ => format!("{scene} I have {item}. That is for {n}. I have {other}. That is for {m}."),
    }
}

/// Two people who did something each, and what came of it.
pub(super) fn who_caused(d: &mut Draw) -> String {
    let who: [&str; 2] = people(d);
    let two = loop {
        let two: [Event; 2] = d.distinct(&EVENTS);
        if two[0].group != two[1].group {
            break two;
        }
    };
    let scene = format!("{} {}. {} {}.", who[0], two[0].cause, who[1], two[1].cause);
    let i = d.below(2);
    let ([n, m], [e, f]) = ([who[i], who[1 - i]], [two[i], two[1 - i]]);
    let account = |who, e: Event| {
        format!("It is on account of this person that {} {}: {who}.", whatever(e.effect), e.effect)
    };
    match d.below(5) {
        0..3 => format!("{scene} {} {}", account(n, e), account(m, f)),
        3 => format!(
            "{scene} On account of {n} the {} {}. On account of {m} the {} {}.",
            e.thing, e.effect, f.thing, f.effect
        ),
        _ => format!(
            "{scene} It was {n} who made it so that {} {}, and {m} that {} {}.",
            whatever(e.effect),
            e.effect,
            whatever(f.effect),
            f.effect
        ),
    }
}

pub(super) fn dialogue(d: &mut Draw) -> String {
    let [x, y, v, w] = people(d);
    let [p, q] = d.distinct(&PLACES);
    let (s, t) = (coloured(d), coloured(d));
    let (first, place) = d.pick(&[(x, p), (y, q)]);
    let is_there = d.pick(&[p, q]);
    let (animal, reply) = (d.pick(&ANIMALS), if is_there == place { "Yes" } else { "No" });
    let scene = format!("{x} is in the {p}. {y} is in the {q}.");
    match d.below(6) {
        0 => format!("{scene}\n\"Where can I find {first}?\" asked {v}.\n\"In the {place},\" said {w}."),
        1 => format!(
            "{scene}\n\"Is {first} in the {is_there}?\" asked {v}.\n\"{reply}, {first} is in the {place},\" said {w}."
        ),
        2 if s != t => {
            let (who, thing) = d.pick(&[(x, &s), (y, &t)]);
            format!(
                "{x} has {}. {y} has {}.\n{v}: Who has got the {thing}?\n{w}: {who} has the {thing}.",
                a(&s),
                a(&t)
            )
        }
        3 => format!("{v}: Where do you find {}?\n{w}: In the {}.", a(animal.name), animal.home),
        4 => format!(
            "\"I brought {} for the {},\" said {v}. \"Good, that is its food,\" said {w}.",
            animal.food, animal.name
        ),
        _ => format!("\"This is the {s} of {x},\" said {v}. \"Then we must give it back to {x},\" said {w}."),
    }
}

/// Talk about words, questions and things: the vocabulary in which tasks are set, in sentences that set none.
pub(super) fn talk(d: &mut Draw) -> String {
    let [x, v, w] = people(d);
    let [p, q] = d.distinct(&PLACES);
    let (s, t, e) = (coloured(d), coloured(d), d.pick(&EVENTS));
    let (want, help) = d.pick(&NEEDS);
    let (kind, items) = d.pick(&KINDS);
    let [item, other] = d.distinct(&items);
    let (small, big) = a_pair_by_size(d);
    let job = d.pick(&JOBS);
    match d.below(24) {
        0 if s != t => {
            format!(
                "\"Which of these will you choose, the {s} or the {t}?\" asked {v}. \"I pick the {s},\" said {w}."
            )
        }
        1 => format!(
            "{v} told a story about {x}. In it {x} was in the {p} and someone else in the {q}. {w} could name the place of {x}: the {p}."
        ),
        2 => format!(
            "{v} and {w} compare the size of {} and {}. Both agree: of this pair the {big} is the bigger one.",
            a(small),
            a(big)
        ),
        3 => format!(
            "{v} can explain the cause: {x} {}. The effect came soon: the {} {}.",
            e.cause, e.thing, e.effect
        ),
        4 => format!(
            "\"I have a problem,\" said {v}, for {v} {want}. \"You should use {help} to solve it,\" said {w}."
        ),
        5 => format!(
            "\"Something is missing: the {s}. Whom can we ask?\" said {v}. {w} knew the owner. The person was {x}."
        ),
        6 => format!(
            "{v} wrote a sentence in a note: \"{x} is in the {p}.\" The next line says: \"{w} is in the {q}.\" After these two sentences the note is complete."
        ),
        7 => format!(
            "A witness made a claim: \"{x} was in the {p}.\" Another witness said so, too. They agree, so the claim will hold and the judge will call it fair."
        ),
        8 => format!(
            "The speaker points to a picture with {}. \"What sort of thing is it?\" \"I think it is {},\" said {v}.",
            a(item),
            a(kind)
        ),
        9 => format!(
            "{v} looked with care at the pictures above the door. Out of all the things in them, {v} liked the {item} most, by far."
        ),
        10 => format!(
            "{v} meets {w} in the {p}. {v} holds the {s} in one hand. \"Tell me, is it your {s}?\" says {v}. \"Yes, give it to me,\" says {w}."
        ),
        11 => format!(
            "The {s} was missing. {v} had to guess, and the result was right: it was in the {p}. \"This completes the set,\" said {w}."
        ),
        12 => format!(
            "From the premise that there is {} in the {p}, a hypothesis may follow: there is {} in the {p}. It must be true.",
            a(item),
            a(kind)
        ),
        13 => format!(
            "{v} made a quiz for {w}. \"Name {} and another one.\" The answer of {w} was: the {item} and the {other}.",
            a(kind)
        ),
        14 => format!(
            "\"The {s} suits you,\" said {v}. \"Do you like it yourself, {w}?\" \"I do,\" said {w}. \"I will take it home tonight.\""
        ),
        15 => format!(
            "{v} reads a text about {x}. Its title is \"The {item}\". At the end {x} was very glad, and {w} would like to own such a text."
        ),
        16 => format!(
            "\"What kind of job would you like?\" asked {v}. \"I would like to be {},\" said {w}. \"It is my own plan.\"",
            a(job.name)
        ),
        17 => format!(
            "{v} tells us that somebody is in the {p}. {w} can hear it, too: somebody is there, somewhere behind the {t}. Who would it be?"
        ),
        18 => format!(
            "{v} has a plan for the day: to finish the work in the {p}, to make a card, and to bring the {s} to {w} at the end."
        ),
        19 => format!(
            "\"Do you need a card?\" asked {v}. \"No, I make my own,\" said {w}. \"I need a title for the text on it.\""
        ),
        20 => format!(
            "{v} put a question to {w}: \"Would you bring us the {s}?\" It was no hard question. {w} went somewhere to find it."
        ),
        21 => format!(
            "{w} did not hear the question. \"Finish your work, it is very late,\" said {v}. \"We need {item} and {other} for the {p}.\""
        ),
        22 => format!(
            "Somebody reads the card aloud and tells all of us what kind of thing it names: {}. {v} had made it. That was the end.",
            a(kind)
        ),
        _ => format!(
            "{v} had to compare two lines. One line says: \"{x} is in the {p}.\" The other says: \"{x} is in the {q}.\" They differ in the place."
        ),
    }
}

/// Things named in a row, and then one of them picked out.
pub(super) fn choosing(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let thing = d.pick(&THINGS);
    let colours: [&str; 3] = d.distinct(&COLOURS);
    let kinds: [(&str, [&str; 6]); 3] = d.distinct(&KINDS);
    let items = kinds.map(|(_, members)| d.pick(&members));
    let i = d.below(3);
    match d.below(3) {
        0 => {
            let all = listed(&colours.map(|c| format!("a {c} one")));
            format!("There were three {}, {all}. {n} took the {} one.", plural(thing), colours[i])
        }
        1 => {
            format!("{n} saw {}. One of them is {}: the {}.", listed(&items.map(a)), a(kinds[i].0), items[i])
        }
        _ => {
            let words = [items[0], items[1]];
            let (j, other) = (i % 2, 1 - i % 2);
            format!(
                "{n} had {} and {}. {m} asked for {}, so {n} gave {m} the {} and kept the {}.",
                a(words[0]),
                a(words[1]),
                a(kinds[j].0),
                words[j],
                words[other]
            )
        }
    }
}

/// Lists with one word on a line: what is in them, not what is asked.
pub(super) fn lists(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let [x, y, z] = d.distinct::<Animal, 3>(&ANIMALS);
    let [j, k, l] = d.distinct::<Job, 3>(&JOBS);
    let kind = d.pick(&KINDS);
    let (title, words): (String, [&str; 3]) = match d.below(10) {
        0 => ("homes of animals".into(), [x.home, y.home, z.home]),
        1 => ("food for animals".into(), [x.food, y.food, z.food]),
        2 => {
            let loud: Vec<Animal> = ANIMALS.into_iter().filter(|x| !x.sound.is_empty()).collect();
            ("sounds".into(), d.distinct::<Animal, 3>(&loud).map(|x| x.sound))
        }
        3 => ("places to work".into(), [j.place, k.place, l.place]),
        4 => ("tools".into(), [j.tool, k.tool, l.tool]),
        5 => ("the work people do".into(), [j.work, k.work, l.work]),
        6 => ("useful things".into(), d.distinct::<_, 3>(&NEEDS).map(|need| bare(need.1))),
        7 => ("words for what happened".into(), d.distinct::<_, 3>(&EVENTS).map(|e| e.effect)),
        8 => {
            let pairs = [
                ["good", "bad"],
                ["positive", "negative"],
                ["happy", "sad"],
                ["glad", "upset"],
                ["praise", "blame"],
                ["yes", "no"],
                ["true", "false"],
                ["right", "wrong"],
                ["same", "different"],
            ];
            ("short words".into(), d.distinct::<[&str; 2], 3>(&pairs).map(|pair| d.pick(&pair)))
        }
        _ => (format!("words for {}", plural_kind(kind.0)), d.distinct(&kind.1)),
    };
    let i = d.below(3);
    let last = match d.below(3) {
        0 => format!("{m} read it aloud: {}.", listed(&words.map(String::from))),
        1 => format!("The {} word in it is\n{}", ["first", "second", "last"][i], words[i]),
        _ => format!("{m} liked one word best:\n{}", words[i]),
    };
    format!("{n} wrote a list of {title}.\n{}\n{last}", words.map(|w| format!("- {w}")).join("\n"))
}

fn coloured(d: &mut Draw) -> String {
    format!("{} {}", d.pick(&COLOURS), d.pick(&THINGS))
}

/// The words as "a, b and c".
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn plural(thing: &str) -> String {
    match thing {
        "scarf" => "scarves".into(),
        _ if thing.ends_with('x') => format!("{thing}es"),
        _ => format!("{thing}s"),
    }
}

/// Things of one kind in several sentences, and their kind.
pub(super) fn topics(d: &mut Draw) -> String {
    let ((kind, members), who) = (d.pick(&KINDS), people::<3>(d));
    let items: [&str; 3] = d.distinct(&members);
    let lines: Vec<String> =
        (0..3).map(|i| format!("{} {} {}.", who[i], d.pick(&DEEDS), a(items[i]))).collect();
    let (text, kinds) = (lines.join(" "), plural_kind(kind));
    match d.below(3) {
        0 => format!("{text} The subject of all three is {kinds}."),
        _ => format!("{text} These are all {kinds}."),
    }
}
