//! The tables of the world: everything its texts can say. Nothing here is random.
//!
//! Articles come from the spelling (`super::a`), so no noun starts with a silent or a consonantal vowel letter; no work,
//! place or tool repeats the stem of its job, and no effect the wording of its cause, which would give answers away.

/// Names read as women's, then as men's: a pronoun needs to know.
pub(super) const PEOPLE: [[&str; 16]; 2] = [
    [
        "Ann", "Sue", "Mia", "Eva", "Lucy", "Ruth", "Kate", "Jane", "Nora", "Emma", "Ida", "Zoe", "Rosa",
        "Lena", "Amy", "Tina",
    ],
    [
        "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Paul", "Hugo", "Carl", "Finn", "Otto", "Dan", "Bob",
        "Fred", "Erik", "Ivan",
    ],
];

/// Where people are: all take "in the".
pub(super) const PLACES: [&str; 16] = [
    "park", "shop", "school", "kitchen", "garden", "library", "station", "museum", "market", "forest",
    "office", "cellar", "church", "bakery", "theater", "tower",
];

/// What people carry.
pub(super) const THINGS: [&str; 16] = [
    "cup", "ball", "hat", "bag", "box", "kite", "coat", "lamp", "book", "bike", "chair", "scarf", "plate",
    "ring", "shirt", "pillow",
];

/// Their names in Velu, an invented language, in the same order.
pub(super) const VELU_THINGS: [&str; 16] = [
    "tolo", "keva", "nuri", "pasa", "bido", "gama", "hiru", "jeko", "lafa", "mopo", "rina", "sotu", "taki",
    "vuma", "wesi", "zolu",
];

/// Colours.
pub(super) const COLOURS: [&str; 8] = ["red", "blue", "green", "yellow", "black", "white", "brown", "pink"];

/// The colours in Velu, where they follow the noun.
pub(super) const VELU_COLOURS: [&str; 8] = ["mira", "sani", "velo", "puri", "kato", "zeni", "dabu", "lomi"];

/// Days of the week.
pub(super) const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// An animal; `sound` is empty where people have no word for it.
#[derive(Clone, Copy)]
pub(super) struct Animal {
    pub(super) name: &'static str,
    pub(super) home: &'static str,
    pub(super) food: &'static str,
    pub(super) sound: &'static str,
}

const fn animal(name: &'static str, home: &'static str, food: &'static str, sound: &'static str) -> Animal {
    Animal { name, home, food, sound }
}

/// From the smallest to the biggest; see [`SIZE_GAP`].
pub(super) const ANIMALS: [Animal; 32] = [
    animal("ant", "hill", "crumbs", ""),
    animal("bee", "hive", "nectar", "buzz"),
    animal("spider", "web", "flies", ""),
    animal("snail", "shell", "lettuce", ""),
    animal("mouse", "hole", "cheese", "squeak"),
    animal("frog", "pond", "insects", "croak"),
    animal("sparrow", "nest", "worms", "chirp"),
    animal("squirrel", "tree", "nuts", ""),
    animal("rabbit", "burrow", "carrots", ""),
    animal("crow", "belfry", "seeds", "caw"),
    animal("snake", "swamp", "mice", "hiss"),
    animal("hen", "coop", "corn", "cluck"),
    animal("duck", "lake", "weeds", "quack"),
    animal("cat", "house", "fish", "meow"),
    animal("turkey", "yard", "berries", "gobble"),
    animal("monkey", "canopy", "bananas", "chatter"),
    animal("fox", "den", "eggs", ""),
    animal("dog", "kennel", "bones", "woof"),
    animal("beaver", "river", "bark", ""),
    animal("sheep", "field", "clover", "baa"),
    animal("goat", "mountains", "shrubs", "bleat"),
    animal("pig", "sty", "acorns", "oink"),
    animal("wolf", "forest", "meat", "howl"),
    animal("lion", "savanna", "meat", "roar"),
    animal("donkey", "shed", "thistles", "bray"),
    animal("cow", "barn", "grass", "moo"),
    animal("horse", "stable", "oats", "neigh"),
    animal("bear", "cave", "honey", "growl"),
    animal("camel", "desert", "thorns", "grunt"),
    animal("elephant", "jungle", "leaves", "trumpet"),
    animal("hippo", "mud", "reeds", "snort"),
    animal("whale", "sea", "shrimp", ""),
];

/// Animals are compared only when they are this many places apart: neighbours in the list are a matter of opinion.
pub(super) const SIZE_GAP: usize = 4;

/// A job: its work (a verb phrase), place (takes "in a") and tool.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) work: &'static str,
    pub(super) place: &'static str,
    pub(super) tool: &'static str,
}

const fn job(name: &'static str, work: &'static str, place: &'static str, tool: &'static str) -> Job {
    Job { name, work, place, tool }
}

/// The jobs.
pub(super) const JOBS: [Job; 24] = [
    job("doctor", "heals patients", "hospital", "needle"),
    job("teacher", "gives lessons", "school", "blackboard"),
    job("barber", "cuts hair", "salon", "comb"),
    job("pilot", "flies planes", "cockpit", "radio"),
    job("sailor", "steers ships", "port", "rope"),
    job("tailor", "sews coats", "shop", "thimble"),
    job("carpenter", "builds tables", "workshop", "saw"),
    job("shepherd", "guards lambs", "meadow", "stick"),
    job("lumberjack", "fells trees", "forest", "axe"),
    job("chef", "makes soup", "kitchen", "pot"),
    job("waiter", "serves meals", "restaurant", "tray"),
    job("dentist", "mends teeth", "clinic", "drill"),
    job("mechanic", "repairs cars", "garage", "wrench"),
    job("scientist", "does tests", "laboratory", "microscope"),
    job("artist", "paints pictures", "studio", "brush"),
    job("author", "writes books", "study", "pen"),
    job("cashier", "takes money", "supermarket", "till"),
    job("clown", "plays tricks", "circus", "mask"),
    job("soldier", "marches in lines", "fort", "rifle"),
    job("judge", "hears cases", "court", "gavel"),
    job("diver", "finds pearls", "reef", "snorkel"),
    job("butcher", "slices ham", "stall", "cleaver"),
    job("musician", "gives concerts", "hall", "violin"),
    job("miner", "digs coal", "pit", "pickaxe"),
];

/// Kinds of things and their members.
pub(super) const KINDS: [(&str, [&str; 6]); 8] = [
    ("animal", ["cow", "dog", "horse", "cat", "rabbit", "bear"]),
    ("fruit", ["apple", "pear", "plum", "peach", "lemon", "banana"]),
    ("vegetable", ["carrot", "onion", "potato", "cabbage", "leek", "turnip"]),
    ("tool", ["hammer", "saw", "spade", "rake", "drill", "axe"]),
    ("vehicle", ["car", "bus", "truck", "train", "van", "tram"]),
    ("flower", ["rose", "tulip", "daisy", "orchid", "poppy", "violet"]),
    ("instrument", ["drum", "violin", "piano", "flute", "guitar", "trumpet"]),
    ("garment", ["coat", "hat", "scarf", "shirt", "sock", "glove"]),
];

/// An event: what someone did, to what, what that did then. Effects of one `group` could follow each other's causes.
#[derive(Clone, Copy)]
pub(super) struct Event {
    pub(super) cause: &'static str,
    pub(super) thing: &'static str,
    pub(super) effect: &'static str,
    pub(super) group: char,
}

const fn event(cause: &'static str, thing: &'static str, effect: &'static str, group: char) -> Event {
    Event { cause, thing, effect, group }
}

/// The events; `cause` follows a name.
pub(super) const EVENTS: [Event; 21] = [
    event("dropped the glass on the floor", "glass", "broke", 'b'),
    event("hit the egg with a spoon", "egg", "cracked", 'b'),
    event("stuck a pin in the balloon", "balloon", "burst", 'b'),
    event("left the ice in the sun", "ice", "melted", 'h'),
    event("stirred the sugar into the hot tea", "sugar", "dissolved", 'h'),
    event("put the water in the freezer", "water", "froze", 'f'),
    event("threw the letter into the fire", "letter", "burned", 'h'),
    event("heated the water in the pot", "water", "boiled", 'h'),
    event("gave the plant light and water", "plant", "grew", 'g'),
    event("threw the stone into the lake", "stone", "sank", 's'),
    event("threw the cork into the lake", "cork", "floated", 's'),
    event("left the milk in a warm room", "milk", "spoiled", 'o'),
    event("left the gate in the rain", "gate", "rusted", 'o'),
    event("told the baby a joke", "baby", "laughed", 'k'),
    event("took the toy from the baby", "baby", "cried", 'k'),
    event("sang to the tired child", "child", "slept", 'k'),
    event("hung the wet shirt in the wind", "shirt", "dried", 'o'),
    event("turned the switch of the lamp", "lamp", "shone", 'l'),
    event("kicked the ball down the slope", "ball", "rolled", 'r'),
    event("opened the gate in front of the dog", "dog", "ran", 'r'),
    event("set the clock for seven", "clock", "rang", 'c'),
];

/// A want or a problem (follows a name) and the thing that helps, with its article if it takes one.
pub(super) const NEEDS: [(&str, &str); 22] = [
    ("is thirsty", "water"),
    ("is hungry", "bread"),
    ("is tired and wants to lie down", "a bed"),
    ("is cold in the snow", "a coat"),
    ("has to walk through the rain", "an umbrella"),
    ("cannot see in the dark", "a torch"),
    ("wants to write to a friend", "a pen"),
    ("wants to send a letter", "a stamp"),
    ("stands before a locked door", "a key"),
    ("wants to know the time", "a clock"),
    ("has dirty hands", "soap"),
    ("wants to dig a hole", "a spade"),
    ("has a nail to put in the wall", "a hammer"),
    ("has to pay at the shop", "money"),
    ("has a torn shirt", "a needle"),
    ("is ill", "medicine"),
    ("wants to climb to the roof", "a ladder"),
    ("has to sweep the floor", "a broom"),
    ("wants to cross the lake", "a boat"),
    ("wants to cut the paper", "scissors"),
    ("wants to see the far stars", "a telescope"),
    ("wants to catch a fish", "a net"),
];

/// Things that get reviews.
pub(super) const REVIEWED: [&str; 16] = [
    "film", "book", "play", "meal", "hotel", "song", "game", "show", "concert", "trip", "story", "dance",
    "tour", "speech", "lesson", "party",
];

/// Words of praise, then of blame.
pub(super) const OPINIONS: [[&str; 12]; 2] = [
    [
        "wonderful",
        "lovely",
        "great",
        "superb",
        "charming",
        "excellent",
        "brilliant",
        "fantastic",
        "pleasant",
        "delightful",
        "amazing",
        "perfect",
    ],
    [
        "awful",
        "terrible",
        "dull",
        "boring",
        "horrible",
        "poor",
        "dreadful",
        "nasty",
        "weak",
        "ugly",
        "miserable",
        "disappointing",
    ],
];

/// What a reviewer adds about the item, in praise, then in blame.
pub(super) const REMARKS: [[&str; 6]; 2] = [
    [
        "The {item} made my day.",
        "I told all my friends about the {item} with joy.",
        "The {item} was worth every coin.",
        "I want more of the {item}.",
        "I smiled for hours after the {item}.",
        "I thank everyone who made the {item}.",
    ],
    [
        "The {item} ruined my day.",
        "I told all my friends to stay away from the {item}.",
        "The {item} was a waste of money.",
        "I never want the {item} again.",
        "I felt cheated by the {item}.",
        "I am angry at everyone who made the {item}.",
    ],
];

/// What happens to someone (follows a name), welcome, then unwelcome.
pub(super) const FORTUNES: [[&str; 12]; 2] = [
    [
        "won the race",
        "got a gift",
        "found the lost ring",
        "met an old friend",
        "passed the test",
        "got a new bike",
        "caught the last bus",
        "heard that the holiday was near",
        "was given a cake",
        "saw the sick dog get well",
        "won a prize",
        "was invited to a party",
    ],
    [
        "lost the race",
        "broke a favorite toy",
        "lost a ring",
        "had a fight with a friend",
        "failed the test",
        "fell off the bike",
        "missed the last bus",
        "heard that the holiday was over",
        "dropped the cake",
        "saw that the dog was sick",
        "was robbed",
        "was not asked to the party",
    ],
];

/// Words for the two moods, pair by pair.
pub(super) const MOODS: [[&str; 3]; 2] = [["happy", "glad", "cheerful"], ["sad", "upset", "gloomy"]];

/// Sentences "A {does} B because she {reason}": the first list is about A, the second about B. Some reasons are in both.
pub(super) const BECAUSE: [[(&str, &str); 9]; 2] = [
    [
        ("asked {b} for food", "was hungry"),
        ("borrowed a coat from {b}", "was cold"),
        ("said sorry to {b}", "had broken the window"),
        ("asked {b} the way", "was lost"),
        ("hid from {b}", "was afraid"),
        ("called {b} for help", "was in trouble"),
        ("borrowed money from {b}", "was poor"),
        ("begged {b} for advice", "had made a mistake"),
        ("asked {b} for a bed", "was tired"),
    ],
    [
        ("cooked a meal for {b}", "was hungry"),
        ("gave a coat to {b}", "was cold"),
        ("scolded {b}", "had broken the window"),
        ("showed {b} the way", "was lost"),
        ("calmed {b}", "was afraid"),
        ("rescued {b}", "was in trouble"),
        ("gave money to {b}", "was poor"),
        ("corrected {b}", "had made a mistake"),
        ("made a bed for {b}", "was tired"),
    ],
];

/// What does not go: verb, things, holes and the two words for the size that is wrong.
type Misfit = (&'static str, &'static [&'static str], &'static [&'static str], [&'static str; 2]);

/// What does not go into what, and the words for a thing too large and a hole too small.
pub(super) const FITS: [Misfit; 2] = [
    (
        "does not fit into",
        &[
            "ball", "hat", "coat", "lamp", "book", "kite", "trumpet", "drum", "violin", "clock", "pillow",
            "plate", "shirt", "guitar", "hammer", "flute",
        ],
        &["box", "bag", "drawer", "basket", "suitcase", "chest", "bucket", "sack", "cabinet", "crate"],
        ["big", "small"],
    ),
    (
        "does not go through",
        &["table", "piano", "sofa", "cart", "bed", "boat", "bus", "truck", "van", "tram"],
        &["door", "gate", "gap", "hall", "window", "tunnel", "lane", "arch"],
        ["wide", "narrow"],
    ),
];

/// Words that mean the same, by how they are used: doing something to a thing, doing something, being somehow.
pub(super) const SYNONYMS: [&[(&str, &str)]; 3] = [
    &[
        ("bought", "purchased"),
        ("fixed", "repaired"),
        ("chose", "selected"),
        ("threw", "tossed"),
        ("hid", "concealed"),
    ],
    &[
        ("shouted", "yelled"),
        ("jumped", "leaped"),
        ("spoke", "talked"),
        ("grinned", "smiled"),
        ("hurried", "rushed"),
    ],
    &[
        ("big", "large"),
        ("small", "little"),
        ("odd", "strange"),
        ("pretty", "beautiful"),
        ("filthy", "dirty"),
        ("wet", "soaked"),
    ],
];

/// Who or what does something that is an effect of [`EVENTS`]: only babies and children laugh, cry and sleep here.
pub(super) fn whatever(effect: &str) -> &'static str {
    if ["laughed", "cried", "slept"].contains(&effect) { "a child" } else { "something" }
}
