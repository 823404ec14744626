"""What is drawn: the concepts, the words for them, and which of them the model must never see."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

# Never trained on in any style: the subjects that tests and users' first trials learn.
HELD_OUT = frozenset(
    """fox;penguin;octopus;giraffe;owl;turtle;crab;snail;strawberry;pizza;pineapple;hamburger;doughnut;broccoli;cherries;
    birthday cake;teapot;guitar;umbrella;backpack;rocket;fire engine;sailboat;helicopter;castle;ferris wheel;telescope;
    robot;ghost;alien;sunflower;cactus;hammer;camera;crown;trophy;violin;bicycle;dragon face;tractor;teddy bear;
    high-heeled shoe""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)
# Never trained on in the 3d style only: does the model put a known thing into a known style it was not seen in?
HELD_OUT_3D = frozenset(
    """lion;frog;dolphin;honeybee;rose;banana;watermelon;carrot;taco;soft ice cream;hot beverage;bus;airplane;house;
    wrapped gift;balloon;key;light bulb;books;bell;drum;t-shirt;top hat;snowman;rainbow;sun with face;volcano;dog face;
    cat face;panda""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)
# Subgroups of emojibase whose every concept (but the held-out ones) is trained.
TRAINED_SUBGROUPS = frozenset(
    """animal-mammal;animal-bird;animal-amphibian;animal-reptile;animal-marine;animal-bug;plant-flower;food-fruit;
    food-vegetable;face-smiling;face-glasses;transport-air;transport-water;musical-instrument""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)
# And single concepts of other subgroups.
TRAINED_EXTRA = frozenset(
    """automobile;police car;racing car;locomotive;bus;taxi;ambulance;delivery truck;motorcycle;tram;mushroom;
    four leaf clover;palm tree;evergreen tree;cheese wedge;croissant;bread;pretzel;taco;hot dog;french fries;egg;
    soft ice cream;cupcake;hot beverage;beer mug;wine glass;house;church;tent;volcano;sun;sun with face;full moon;
    crescent moon;star;cloud;rainbow;snowman;fire;soccer ball;basketball;baseball;pool 8 ball;game die;kite;jeans;
    t-shirt;dress;socks;glasses;sunglasses;top hat;running shoe;handbag;ring;gem stone;bell;mobile phone;laptop;
    television;light bulb;candle;books;blue book;envelope;pencil;scissors;locked;key;axe;gear;magnet;bomb;bed;chair;
    wrapped gift;balloon;jack-o-lantern;christmas tree;alarm clock;skull;red heart;orange heart;yellow heart;
    green heart;blue heart;purple heart;black heart;broken heart;clown face;pile of poo;cowboy hat face;crying face;
    angry face;sleeping face""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)

# Subgroup (its beginning) to the class word of captions: the word a class prior is drawn for.
_CLASS_WORDS = {
    "face-": "face",
    "cat-face": "cat face",
    "monkey-face": "monkey face",
    "heart": "heart",
    "emotion": "symbol",
    "hand": "hand",
    "body-parts": "body part",
    "person-fantasy": "person",
    "animal-mammal": "animal",
    "animal-bird": "bird",
    "animal-amphibian": "animal",
    "animal-reptile": "reptile",
    "animal-marine": "sea animal",
    "animal-bug": "bug",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "food",
    "food-asian": "food",
    "food-sweet": "dessert",
    "drink": "drink",
    "dishware": "dish",
    "place-map": "map",
    "place-geographic": "landscape",
    "place-building": "building",
    "place-religious": "building",
    "place-other": "place",
    "transport-ground": "vehicle",
    "transport-water": "boat",
    "transport-air": "aircraft",
    "hotel": "hotel",
    "time": "clock",
    "sky-weather": "weather",
    "event": "party",
    "award-medal": "award",
    "sport": "sport",
    "game": "game",
    "arts-crafts": "art",
    "clothing": "clothes",
    "sound": "sound",
    "music": "music",
    "musical-instrument": "instrument",
    "phone": "phone",
    "computer": "computer",
    "light-video": "camera",
    "book-paper": "book",
    "money": "money",
    "mail": "mail",
    "writing": "pen",
    "office": "office tool",
    "lock": "lock",
    "tool": "tool",
    "science": "science tool",
    "medical": "medicine",
    "household": "household thing",
    "other-object": "thing",
    "warning": "sign",
    "arrow": "arrow",
    "zodiac": "sign",
    "geometric": "shape",
}
_GROUPS = frozenset({0, 3, 4, 5, 6, 7})  # faces, animals and nature, food, travel, activities, objects
_SUBGROUPS = frozenset(
    """geometric;warning;zodiac;arrow;hand-fingers-open;hand-fingers-partial;hand-single-finger;hand-fingers-closed;
    hands;hand-prop;body-parts;person-fantasy""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing that has pictures: `code` joins the packages, `label` names it, `word` is its class."""

    code: str
    label: str
    subgroup: str
    word: str
    tags: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        return self.label in HELD_OUT

    def trained(self, style: str) -> bool:
        """Is its picture of `style` among the pictures that the denoiser is trained on?"""
        if self.held_out or (style == "3d" and self.label in HELD_OUT_3D):
            return False
        return self.subgroup in TRAINED_SUBGROUPS or self.label in TRAINED_EXTRA


def plain_code(code: str) -> str:
    """Hexcodes as all packages agree on them: lower case, without the variation selector."""
    return code.lower().replace("-fe0f", "")


def plain_label(label: str) -> str:
    return label.lower().replace("’", "'").replace(":", " ").replace("“", "").replace("”", "")


def read_concepts(emojibase: Path) -> dict[str, Concept]:
    """The concepts of the unpacked emojibase package by hexcode: no flags, clock faces, families or keycaps."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text(encoding="utf-8"))["subgroups"]
    concepts = {}
    for entry in json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8")):
        if "group" not in entry:
            continue
        subgroup = names[str(entry["subgroup"])]
        clock = re.search(r"o[’']clock|-thirty", entry["label"])
        compound = "200d" in entry["hexcode"].lower() and entry["group"] == 1
        if (entry["group"] not in _GROUPS and subgroup not in _SUBGROUPS) or clock or compound:
            continue
        word = next((w for start, w in _CLASS_WORDS.items() if subgroup.startswith(start)), "thing")
        code, label = plain_code(entry["hexcode"]), plain_label(entry["label"])
        concepts[code] = Concept(
            code=code, label=label, subgroup=subgroup, word=word, tags=tuple(entry.get("tags", ()))
        )
    return concepts
