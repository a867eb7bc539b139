//! Writers of running text about people: stories, dialogue, talk about words and questions, choosing, lists.
//!
//! Each returns a piece of one to a few sentences; `prose` makes documents of them and holds the writers of single facts.

use super::prose::{a_pair_by_size, people};
use super::words::*;
use super::{Draw, a, bare};

pub(super) fn story(d: &mut Draw) -> String {
    let [x, y] = people(d);
    let [p, q] = d.distinct(&PLACES);
    let (s, t) = (coloured(d), coloured(d));
    let scene = match d.below(3) {
        0 => format!("{x} is in the {p}. {y} is in the {q}."),
        1 => format!("{x} has {}. {y} has {}.", a(&s), a(&t)),
        _ => format!("{x} is in the {p}. {x} has {}. {y} is in the {q}. {y} has {}.", a(&s), a(&t)),
    };
    let (places, things) = (scene.contains(" is in "), scene.contains(" has "));
    let end = match d.below(5) {
        0 if places => format!("To meet {y}, go to the {q}. To meet {x}, go to the {p}."),
        1 if places => format!("{x} is not in the {q}. {x} is in the {p}."),
        2 if places => format!("The one in the {q} is {y}. The one in the {p} is {x}."),
        0 | 1 if s != t => format!("The {t} is with {y}. The {s} is with {x}."),
        3 if things && s != t => format!("It is {x} who has the {s}. It is {y} who has the {t}."),
        4 if things => format!("{x} gives the {s} to {y}. Now {y} has the {s}."),
        _ if places => format!("{y} goes to the {p}. Now {y} is in the {p}."),
        _ => format!("{x} shows the {s} to {y}. It belongs to {x}."),
    };
    format!("{scene} {end}")
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
    match d.below(16) {
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

fn plural_kind(kind: &str) -> String {
    if kind == "fruit" { kind.into() } else { format!("{kind}s") }
}
