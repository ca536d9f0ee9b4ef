"""Which format is a picture in? By the ending of its name, and then by its first bytes."""

from __future__ import annotations

from importlib.util import find_spec

MAX_BRANDS = 256

_JPEG = "jpg jpeg jpe jif jfi jfif pjpeg pjp mpo jps insp"
_PLAIN = "png apng pns webp gif bmp dib tif tiff psd"
_JPEG2000 = "jp2 j2k j2c jpc jpf jpx"
_HEIF = "heic heics heif heifs hif avif avifs"
_RAW = "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
_OTHER = (
    "ai ari bay bpg cap cdr cur dcm dcx dds djvu emf eps exr fig fit fits fla flif hdp hdr icns ico jls jng jpm jxr "
    "kra mng ora pam pbm pcd pct pcx pdd pdn pfm pgm pict pnm ppm psb qoi ras raw rgb rgbe sgi sketch svg svgz tga "
    "wbmp wdp wmf xbm xcf xpm "
    "360 3g2 3gp asf avi flv insv lrv m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts mxf ogv vob webm wmv"
)


def _endings(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


# Looks for the plug-in without importing it.
_JXL = _endings("jxl") if find_spec("pillow_jxl") else frozenset[str]()
RAW_ENDINGS = _endings(_RAW)
# Endings, in lower case, of pictures that this installation reads ...
ENDINGS = _endings(" ".join((_JPEG, _PLAIN, _JPEG2000, _HEIF))) | RAW_ENDINGS | _JXL
# ... and of pictures and videos that it does not.
RECOGNISED = (_endings(_OTHER) | _endings("jxl")) - ENDINGS

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_FIRST_BYTES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"8BPS", "PSD"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"MM*\0", "TIFF"),
    (b"II\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"FUJIFILMCCD-RAW", "RAW"),
    (b"IIRO", "RAW"),
    (b"IIRS", "RAW"),
    (b"MMOR", "RAW"),
    (b"IIU\0", "RAW"),
    (b"\0MRM", "RAW"),
    (b"FOVb", "RAW"),
)
_DIB_HEADERS = {12, 40, 52, 56, 64, 108, 124}


def formats(content: bytes) -> tuple[str, ...]:
    """The possible formats by the first bytes, the likeliest first; none for a file that is no picture. A "TIFF" may
    turn out to be a RAW file."""
    for first, name in _FIRST_BYTES:
        if content.startswith(first):
            return (name,)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ("WEBP",)
    if content[6:14] == b"HEAPCCDR":
        return ("RAW",)
    if content[4:8] == b"ftyp":
        return _of_brands(content)
    return ("DIB",) if int.from_bytes(content[:4], "little") in _DIB_HEADERS else ()


def _of_brands(content: bytes) -> tuple[str, ...]:
    major, size = content[8:12], int.from_bytes(content[:4])
    others = content[16 : min(size, 16 + 4 * MAX_BRANDS)]
    brands = {major} | {others[low : low + 4] for low in range(0, len(others), 4)}
    if major == b"crx ":
        return ("RAW",)
    if brands & _AVIF_BRANDS:
        return ("AVIF",)
    if brands <= {b"mif1", b"msf1", b"miaf"}:
        return "AVIF", "HEIF"  # may be either; only libavif refuses a file of the other format at once
    return ("HEIF",) if brands & _HEIF_BRANDS else ()
