"""Offers as Nivoda sends them, made from the columns when a page is asked for."""

from __future__ import annotations

from typing import Any

from sandbox import nivoda_stock as stock
from sandbox.nivoda_filters import discounts, media_of
from sandbox.nivoda_identity import certificate_numbers, stone_id
from sandbox.nivoda_market import Feed, Market
from sandbox.nivoda_stock import CODES, Array

MEDIA_URL = "https://media.example.com"
LOCATIONS = ("India", "Belgium", "United States", "Hong Kong", "United Kingdom", "Israel")
EYE_CLEAN = ("Yes", "100%", "90%", "No", "Borderline", None)
NOTHING_SEEN = ("None", "None", "None", "Light", None)
GIRDLES = ("MED", "STN - MED", "MED - STK", "THN", "THK")
CULETS = ("NON", "NON", "VSM", "SML")
MARKUP_PERCENT = 20

Item = dict[str, Any]


def items(market: Market, feed: Feed, places: Array) -> list[Item]:
    """The offers of the stones at these places, in that order, with every field of the schema."""
    held = feed.stock
    columns = {name: held[name][places].tolist() for name in stock.TYPES}
    chance = stock.mixed(places, market.state.seed).tolist()
    off = discounts(places).tolist()
    certificates = certificate_numbers(held.feed, places).tolist()
    images, videos = (media_of(market, places, kind).tolist() for kind in ("has_image", "has_v360"))
    unmeasured = (stock.shares(places, 83) < market.switches.unmeasured).tolist()
    made = []
    for number, place in enumerate(places.tolist()):
        stone = {name: values[number] for name, values in columns.items()}
        for name, codes in CODES.items():
            stone[name] = codes[stone[name]]
        identity = stone_id(held.feed, place, chance[number])
        certificate = _certificate(held.feed, stone, str(certificates[number]), chance[number], unmeasured[number])
        certificate["image"] = f"{MEDIA_URL}/{identity}.jpg" if images[number] else None
        certificate["video"] = f"{MEDIA_URL}/{identity}.mp4" if videos[number] else None
        certificate["v360"] = _turntable(identity) if videos[number] else None
        made.append(
            {
                "id": f"DIAMOND/{identity}",
                "diamond": _diamond(identity, stone, certificate, chance[number]),
                "price": stone["price"],
                "discount": off[number],
                "markup_price": stone["price"] * (100 + MARKUP_PERCENT) // 100,
                "markup_discount": off[number] + MARKUP_PERCENT * 100,
            }
        )
    return made


def _turntable(identity: str) -> Item:
    url = f"{MEDIA_URL}/360/{identity}"
    return {"url": url, "frame_count": 256, "renumbered": False, "top_index": "0", "dl_link": f"{url}.zip"}


def supplier(number: int) -> Item:
    """The company behind a supplier's number."""
    return {
        "id": f"SUPPLIER{number}",
        "name": f"Supplier {number}",
        "legal_name": f"Supplier {number} Diamonds Ltd",
        "company_image": None,
    }


def _diamond(identity: str, stone: Item, certificate: Item, chance: int) -> Item:
    is_on_hold = stone["availability"] in ("HOLD", "ON_HOLD")
    days = 2 + chance % 7
    return {
        "id": identity,
        "v360": certificate["v360"],
        "brown": NOTHING_SEEN[(chance >> 4) % 5],
        "green": NOTHING_SEEN[(chance >> 7) % 5],
        "blue": None,
        "gray": None,
        "other": None,
        "milky": NOTHING_SEEN[(chance >> 10) % 5],
        "eyeClean": EYE_CLEAN[(chance >> 13) % 6],
        "mine_of_origin": None,
        "canada_mark_eligible": False,
        "forever_mark_eligible": False,
        "bowtie": None,
        "video": certificate["video"],
        "image": certificate["image"],
        "certificate": certificate,
        "availability": stone["availability"],
        "supplier_video_link": certificate["video"],
        "supplier": supplier(stone["supplier"]),
        "approval_type": "FULL",
        "final_price": True,
        "show_measurements": True,
        "show_certificate_number": True,
        "delivery_time": {
            "express_timeline_applicable": days < 4,
            "min_business_days": days,
            "max_business_days": days + 3,
        },
        "return_window": 30 if chance % 3 else 0,
        "CertificateType": None,
        "HoldId": f"HOLD/{identity}" if is_on_hold else None,
        "location": LOCATIONS[(chance >> 16) % 6],
        "supplierStockId": f"S{stone['supplier']}-{chance % 1_000_000}",
    }


def _certificate(feed: str, stone: Item, number: str, chance: int, is_unmeasured: bool) -> Item:
    is_lab = feed == stock.LABGROWN
    length, width, depth = (f"{stone[side] / 100:.6f}" if stone[side] else "0" for side in ("length", "width", "depth"))
    if is_unmeasured:
        length, width, depth = "0", "0", "null"
    crown, pavilion = 32 + (chance >> 20) % 40 / 10, 40 + (chance >> 26) % 20 / 10
    return {
        "id": f"CERTIFICATE/{number}",
        "lab": stone["lab"],
        "certNumber": number,
        "shape": stone["shape"],
        "fullShape": None,
        "carats": stone["carats"] / 100,
        "clarity": stone["clarity"],
        "cut": stone["cut"] if stone["shape"] == "ROUND" else None,
        "polish": stone["polish"],
        "symmetry": stone["symmetry"],
        "color": stone["color"],
        "f_color": None,
        "f_intensity": None,
        "f_overtone": None,
        "colorShade": None,
        "length": length,
        "width": width,
        "depth": depth,
        "comments": "",
        "depthPercentage": f"{stone['depth_percent'] / 10:.6f}",
        "table": f"{stone['table_percent'] / 10:.6f}",
        "crownAngle": f"{crown:.6f}",
        "crownHeight": "null" if is_unmeasured else f"{13 + (chance >> 32) % 30 / 10:.6f}",
        "pavAngle": f"{pavilion:.6f}",
        "pavHeight": "0",
        "pavDepth": f"{42 + (chance >> 37) % 20 / 10:.6f}",
        "starLength": "50.000000",
        "lowerGirdle": "80.000000",
        "girdle": GIRDLES[(chance >> 42) % 5],
        "culetSize": CULETS[(chance >> 45) % 4],
        "pdfUrl": f"{MEDIA_URL}/certificates/{number}.pdf",
        "floInt": stone["fluorescence"],
        "floCol": None if stone["fluorescence"] == "NON" else "Blue",
        "keyToSymbols": "Crystal, Feather" if chance & 1 else None,
        "verified": None,
        "labgrown": is_lab,
        "labgrown_type": ("CVD", "HPHT")[(chance >> 48) % 2] if is_lab else None,
        "treated": False,
    }
