//! Running text for pretraining: short documents in which the world's facts, events and words turn up in ordinary sentences.
//!
//! The mixture follows what a pilot found a small model can learn: one fact a sentence, names rather than pronouns, lists and
//! choosing from lists in one text of ten, what a thing is not, true and false statements. There is no instruction, no
//! OPTIONS block, and no wording of a task template (a test compares sequences of four to six words). Lists with
//! one word on a line are there because a target starts a line: the model must have seen words there, though not as the answer
//! to a question. Likewise every word of the templates turns up in other sentences: an untrained token carries no transfer.

use std::iter::repeat_n;

use super::scenes::{choosing, dialogue, lists, story, talk};
use super::words::*;
use super::{Draw, a, bare, cap};

type Writer = fn(&mut Draw) -> String;

/// What documents are made of and how much of each.
const MIXTURE: [(usize, Writer); 18] = [
    (15, story),
    (9, dialogue),
    (12, talk),
    (10, animals),
    (8, jobs),
    (8, review),
    (5, fortune),
    (6, event),
    (5, need),
    (6, because),
    (3, fit),
    (4, synonyms),
    (5, choosing),
    (5, lists),
    (3, is_not),
    (3, truth),
    (2, there_is),
    (3, sizes),
];

/// Document `index`: 30 to 120 words, all from one writer of the mixture.
pub fn prose(seed: u64, index: u64) -> String {
    let mut d = Draw::new(seed, &format!("prose/{index}"));
    let writers: Vec<Writer> = MIXTURE.iter().flat_map(|&(share, write)| repeat_n(write, share)).collect();
    let write = d.pick(&writers);
    let length = 30 + d.below(50);
    let (mut pieces, mut words): (Vec<String>, usize) = (Vec::new(), 0);
    while words < length {
        let piece = write(&mut d);
        if !pieces.contains(&piece) {
            words += piece.split_whitespace().count();
            pieces.push(piece);
        }
    }
    // A piece of several lines stands in lines of its own.
    pieces.join(if pieces.iter().any(|p| p.contains('\n')) { "\n" } else { " " })
}

pub(super) fn people<const K: usize>(d: &mut Draw) -> [&'static str; K] {
    d.distinct(PEOPLE.as_flattened())
}

fn animals(d: &mut Draw) -> String {
    let x = d.pick(&ANIMALS);
    let (n, home, food, sound) = (x.name, x.home, x.food, x.sound);
    let says = !sound.is_empty();
    match d.below(9) {
        0 => format!("{} lives in the {home}.", cap(&a(n))),
        1 => format!("{} eats {food}.", cap(&a(n))),
        2 if says => format!("{} says {sound}.", cap(&a(n))),
        3 if says => {
            format!("A loud {sound} came from the {home}. It was the {n}, and the {n} wanted {food}.")
        }
        4 => format!("The {home} is the home of the {n}. Its food is {food}."),
        5 if says => format!("The sound of the {n} is {sound}. The {n} went back to the {home}."),
        6 => format!("The {n} ate some {food} and went home to the {home}."),
        7 => format!("In nature {} will live in the {home} and eat {food}.", a(n)),
        8 if says => format!("\"Which animal can make the noise {sound}?\" asked the child. It was the {n}."),
        _ => format!("Look into the {home} and you may see the {n}. It likes {food}."),
    }
}

fn jobs(d: &mut Draw) -> String {
    let x = d.pick(&JOBS);
    let (n, work, place, tool) = (x.name, x.work, x.place, x.tool);
    let [who] = people(d);
    match d.below(9) {
        0 => format!("{} works in {} and {work}.", cap(&a(n)), a(place)),
        1 => format!("{} uses {}.", cap(&a(n)), a(tool)),
        2 => format!("{who} is {}. {who} {work}. {who} has {}.", a(n), a(tool)),
        3 => format!("The one who {work} is the {n}. The {n} is in the {place}."),
        4 => format!("In the {place} works the {n}. The tool of the {n} is the {tool}."),
        5 => format!("Of all trades {who} likes that of the {n} most: such a person {work}."),
        6 => format!("{who} is {}. This is the daily task: {who} {work}. The {tool} is used for it.", a(n)),
        7 => format!("The place where {} usually goes to work is the {place}.", a(n)),
        _ => format!("Every day the {n} goes to the {place}, takes the {tool} and {work}."),
    }
}

fn review(d: &mut Draw) -> String {
    let class = d.below(2);
    let [n, m] = people(d);
    let (item, word, remark) = (d.pick(&REVIEWED), d.pick(&OPINIONS[class]), d.pick(&REMARKS[class]));
    let text = match d.below(4) {
        0 => format!("\"The {item} was {word}. {remark}\""),
        1 => format!("\"What {} {item}! {remark}\"", a(word)),
        2 => format!("\"It was {} {item}.\"", a(word)),
        _ => format!("\"I found the {item} {word}.\""),
    };
    let view = [["good", "positive", "praise"], ["bad", "negative", "blame"]][class];
    match d.below(8) {
        0 => format!("{n} said: {text} That is {}, so the view of {n} is {}.", view[2], view[1]),
        1 => {
            let (likes, reply) = [("liked", "Yes"), ("did not like", "No")][class];
            format!("{n} said: {text} {m} asked if {n} liked it. {reply}, {n} {likes} the {item}.")
        }
        2 => format!("{n} said: {text} For {n} it was a {} {item}.", view[0]),
        3 => format!("{n} wrote: {text} It was a {} review, full of {}.", view[1], view[2]),
        4 => format!("{n} wrote about the {item}: {text} The writer has a {} opinion.", view[1]),
        5 => {
            format!("\"How was the {item}, good or bad?\" asked {m}. {n} said: {text} So it was {}.", view[0])
        }
        6 => {
            format!("{n} came as a guest and tried the {item}. {n} said: {text} The verdict is {}.", view[0])
        }
        _ => format!(
            "{m} had to judge the words of {n}: {text} It was not {}, it was {}.",
            ["blame", "praise"][class],
            view[2]
        ),
    }
}

fn fortune(d: &mut Draw) -> String {
    let class = d.below(2);
    let [n, m] = people(d);
    let (what, mood) = (d.pick(&FORTUNES[class]), d.pick(&MOODS[class]));
    match d.below(9) {
        0 => format!("{n} {what}. {n} was {mood}."),
        1 => format!("{n} was {mood} because {n} {what}."),
        2 => format!("{n} {what}. It was a {} day for {n}.", ["good", "bad"][class]),
        3 => format!("{n} {what}. That was {} news, and {n} felt {mood}.", ["good", "bad"][class]),
        4 => format!("{n} {what}. After this the mood of {n} was {mood}."),
        5 => format!("{n} {what}, so {n} is likely to feel {mood} tonight. {m} knows that feeling."),
        6 => format!("How did {n} take it, happy or sad? {n} {what} and was {}.", ["happy", "sad"][class]),
        7 => format!("{n} {what}. Now {n} feels {mood}."),
        _ => format!("Was {n} cheerful? {}, because {n} {what}.", ["Yes", "No"][class]),
    }
}

fn event(d: &mut Draw) -> String {
    let [n] = people(d);
    let Event { cause, thing, effect, .. } = d.pick(&EVENTS);
    match d.below(4) {
        0 => format!("{n} {cause}. The {thing} {effect}."),
        1 => format!("The {thing} {effect} because {n} {cause}."),
        2 => format!("{n} {cause}, so the {thing} {effect}."),
        _ => format!("Why did it happen that the {thing} {effect}? {n} {cause}."),
    }
}

fn need(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let (want, help) = d.pick(&NEEDS);
    match d.below(4) {
        0 => format!("{n} {want}. {n} needs {help}."),
        1 => format!("{n} {want}, so {m} brings {help}."),
        2 => format!("{n} looks for {help} because {n} {want}."),
        _ => format!("{n} {want}. With {help} all will be well, says {m}. The {} helps {n}.", bare(help)),
    }
}

fn because(d: &mut Draw) -> String {
    let (class, gender) = (d.below(2), d.below(2));
    let names = d.distinct::<_, 2>(&PEOPLE[gender]);
    let (does, reason) = d.pick(&BECAUSE[class]);
    let (does, who, p) = (does.replace("{b}", names[1]), names[class], ["she", "he"][gender]);
    let line = format!("{} {does} because {p} {reason}.", names[0]);
    match d.below(4) {
        0 => format!("{} {does} because {who} {reason}.", names[0]),
        1 => format!("{line} It was {who} who {reason}."),
        2 => format!("{line} Yes, {who} {reason}."),
        _ => format!("{} {does}. The reason is that {who} {reason}.", names[0]),
    }
}

fn fit(d: &mut Draw) -> String {
    let (verb, things, holes, sizes) = d.pick(&FITS);
    let class = d.below(2);
    let pair = [d.pick(things), d.pick(holes)];
    let (who, size) = (pair[class], sizes[class]);
    let line = format!("The {} {verb} the {} because", pair[0], pair[1]);
    match d.below(3) {
        0 => format!("{line} the {who} is too {size}."),
        1 => format!("{line} it is too {size}. It is the {who} that is too {size}."),
        _ => format!("{line} it is too {size}. Yes, the {who} is too {size}."),
    }
}

fn synonyms(d: &mut Draw) -> String {
    let form = d.below(3);
    let [mut x, y] = d.distinct::<_, 2>(SYNONYMS[form]);
    if d.coin() {
        x = (x.1, x.0);
    }
    let ([n, m], thing) = (people(d), d.pick(&THINGS));
    let say = |word| match form {
        0 => format!("{n} {word} the {thing}"),
        1 => format!("{n} {word}"),
        _ => format!("the {thing} is {word}"),
    };
    match d.below(4) {
        0 => format!("The word {} means the same as {}.", x.0, x.1),
        1 => format!("{}. In other words, {}.", cap(&say(x.0)), say(x.1)),
        2 => format!("\"{},\" said {m}. To say that {} would mean the same.", cap(&say(x.0)), say(x.1)),
        _ => format!("The word {} does not mean the same as {}. Its meaning is different.", x.0, y.0),
    }
}

fn is_not(d: &mut Draw) -> String {
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let items = two.map(|(_, members)| d.pick(&members));
    let [n] = people(d);
    let both = format!("{} and {}", a(items[0]), a(items[1]));
    match d.below(3) {
        0 => format!("{} is {}. It is not {}.", cap(&a(items[0])), a(two[0].0), a(two[1].0)),
        1 => format!("{n} drew {both}. The {} is not {}, it is {}.", items[1], a(two[0].0), a(two[1].0)),
        _ => format!("Here are {both}. The one that is not {} is the {}.", a(two[1].0), items[0]),
    }
}

fn truth(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let [x, y] = d.distinct_by::<Animal, _, 2>(&ANIMALS, |x| x.home);
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let (item, right) = (d.pick(&two[0].1), d.coin());
    let (claim, fact) = if d.coin() {
        let home = if right { x.home } else { y.home };
        let lives = |home| format!("{} lives in the {home}", a(x.name));
        (lives(home), lives(x.home))
    } else {
        let kind = if right { two[0].0 } else { two[1].0 };
        (format!("{} is {}", a(item), a(kind)), format!("{} is {}", a(item), a(two[0].0)))
    };
    match (d.below(3), right) {
        (0, true) => format!("It is true that {claim}."),
        (0, false) => format!("It is false that {claim}. {}.", cap(&fact)),
        (1, true) => format!("\"{},\" said {n}. \"That is right,\" said {m}.", cap(&claim)),
        (1, false) => format!("\"{},\" said {n}. \"That is wrong, {fact},\" said {m}.", cap(&claim)),
        (_, true) => format!("\"Is it so that {claim}?\" asked {n}. \"Yes, that is true,\" said {m}."),
        (_, false) => format!("\"Is it so that {claim}?\" asked {n}. \"No, that is false,\" said {m}."),
    }
}

/// From the member to its kind, in place.
fn there_is(d: &mut Draw) -> String {
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let (item, place) = (d.pick(&two[0].1), d.pick(&PLACES));
    let scene = format!("There is {} in the {place}.", a(item));
    let (kind, other) = (a(two[0].0), a(two[1].0));
    match d.below(3) {
        0 => format!("{scene} So there is {kind} in the {place}."),
        1 => format!("{scene} Is there {other} in the {place}? No, there is {kind}."),
        _ => format!("{scene} Is there {kind} in the {place}? Yes, {} is {kind}.", a(item)),
    }
}

pub(super) fn a_pair_by_size(d: &mut Draw) -> (&'static str, &'static str) {
    let small = d.below(ANIMALS.len() - SIZE_GAP);
    let big = small + SIZE_GAP + d.below(ANIMALS.len() - small - SIZE_GAP);
    (ANIMALS[small].name, ANIMALS[big].name)
}

fn sizes(d: &mut Draw) -> String {
    let (s, b) = a_pair_by_size(d);
    match d.below(4) {
        0 => format!("{} is bigger than {}.", cap(&a(b)), a(s)),
        1 => format!("{} is smaller than {}.", cap(&a(s)), a(b)),
        2 => format!("{} and {} met. The bigger one was the {b}.", cap(&a(s)), a(b)),
        _ => format!("{} and {} met. The smaller one was the {s}.", cap(&a(b)), a(s)),
    }
}
