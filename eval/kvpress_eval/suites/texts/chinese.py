"""The world in Chinese: surnames with rare given names, places and horses of three rare characters, years in
Chinese digits. No ASCII but line ends.

Rare characters are those of the second level of GB 2312: 3008 that everyday text hardly uses.
"""

from __future__ import annotations

import random
import re

from .narrative import Language

__all__ = ["CHINESE", "RARE", "SURNAMES"]

SURNAMES = (
    "褚蒋沈韩杨秦尤吕曹魏陶姜戚谢邹喻柏窦潘葛奚范彭郎鲁韦苗俞袁柳酆鲍廉岑薛贺倪汤滕殷罗毕郝邬"
    "卞康伍余卜顾孟黄穆萧尹姚邵湛汪祁毛禹狄贝臧伏戴宋茅庞熊纪舒屈项祝董梁杜阮蓝闵季麻贾江童颜郭梅"
    "盛林刁钟徐邱骆蔡樊霍虞柯昝管卢莫房裘缪解应丁宣邓郁杭洪包崔吉龚程嵇邢裴陆荣翁荀惠曲"
)
_LEVEL_TWO = "".join(bytes((row, column)).decode("gb2312") for row in range(0xD8, 0xF8) for column in range(0xA1, 0xFF))
RARE = "".join(character for character in _LEVEL_TWO if character not in SURNAMES)
_DIGITS = "〇一二三四五六七八九"
_TO_DIGITS = str.maketrans("0123456789", _DIGITS)


def _draw(rng: random.Random, what: str) -> str:
    n = len(RARE)
    rest = rng.randrange(n * n * (len(SURNAMES) if what == "person" else n))
    rest, last = divmod(rest, n)
    first, middle = divmod(rest, n)
    return (SURNAMES if what == "person" else RARE)[first] + RARE[middle] + RARE[last]


def _year(year: int) -> str:
    return str(year).translate(_TO_DIGITS) + "年"


_RELATIONS = {
    "owns": (
        "{a}有一匹马名叫{b}",
        "{a}的马名叫{b}",
        "名叫{b}的马归{a}所有",
        "{b}这匹马属于{a}",
        "马{b}的主人是{a}",
        "{a}是马{b}的主人",
        "{a}养着名叫{b}的马",
        "那匹叫{b}的马是{a}的",
    ),
    "mentor": (
        "{a}的师父是{b}",
        "{b}是{a}的师父",
        "{a}拜{b}为师",
        "{b}收{a}为徒",
        "{a}是{b}的徒弟",
        "{a}的手艺是{b}教的",
        "{b}把手艺传给了{a}",
        "教{a}手艺的人是{b}",
    ),
    "home": (
        "{a}住在{b}",
        "{a}的家在{b}",
        "{b}是{a}居住的地方",
        "{a}定居于{b}",
        "{a}把家安在{b}",
        "在{b}可以找到{a}的住处",
        "{b}有{a}的住处",
        "{a}的住处在{b}",
    ),
    "moved": (
        "{t}{a}搬到{b}",
        "{a}于{t}搬到{b}",
        "{a}在{t}迁往{b}",
        "{t}{b}成了{a}的新家",
        "{b}在{t}成了{a}的新家",
        "{t}{a}举家迁往{b}",
        "{a}搬到{b}是在{t}",
        "{a}迁往{b}的时间是{t}",
    ),
    "arrived": (
        "{a}于{t}抵达{b}港",
        "{t}{a}抵达{b}港",
        "{b}港在{t}迎来{a}",
        "{t}{b}港迎来{a}",
        "{a}在{t}乘船到了{b}港",
        "{a}抵达{b}港是在{t}",
        "{t}{a}的船驶入{b}港",
        "{a}的船在{t}驶入{b}港",
    ),
    "invited": (
        "{p}的宴会邀请了{a}、{b}和{c}",
        "{a}、{b}和{c}受邀参加{p}的宴会",
        "受邀参加{p}的宴会的有{a}、{b}和{c}",
        "{p}的宴会把请柬发给了{a}、{b}和{c}",
        "{a}、{b}和{c}收到了{p}的宴会的请柬",
        "收到{p}的宴会请柬的是{a}、{b}和{c}",
        "{p}的宴会请了三位客人：{a}、{b}和{c}",
        "{p}的宴会的客人名单上有{a}、{b}和{c}",
    ),
    "attended": (
        "{a}出席了{b}的宴会",
        "{b}的宴会上有{a}",
        "{a}来到了{b}的宴会",
        "{b}的宴会上人们见到了{a}",
        "{a}在{b}的宴会上露了面",
        "出席{b}的宴会的人中有{a}",
        "{a}赴了{b}的宴会",
        "{b}的宴会{a}到场了",
    ),
}
_DENIALS = (
    "有人说{}，其实不是",
    "据说{}，但这是假的",
    "关于{}的说法不属实",
    "人们误以为{}",
    "谣传{}，后来证明有误",
    "说{}是谎话",
    "有传言称{}，并无此事",
    "并没有{}这回事",
)
# regular expressions over 3000 characters are slow: a name is what has none of these
_COMMON = "".join(sorted({c for texts in (*_RELATIONS.values(), _DENIALS) for text in texts for c in text + _DIGITS}))

CHINESE = Language(
    relations=_RELATIONS,
    denials=_DENIALS,
    questions={
        "horse": "{}的马叫什么名字？",
        "mentor_home": "{}的师父住在哪里？",
        "last_home": "{}最后一次搬家搬到了哪里？",
        "first_arrival": "谁最先抵达{}港？",
        "last_arrival": "谁最后抵达{}港？",
        "absent": "谁受邀参加{}的宴会却没有出席？",
    },
    draw=_draw,
    name=f"[^年。，：{re.escape(_COMMON)}]{{3}}",
    year=_year,
    digits=_DIGITS,
    stop="。",
    joint="",
    spread=True,
)
