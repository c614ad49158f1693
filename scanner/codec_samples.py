"""One tiny frame in each compression that CT comes in, to try the decoders with; synthetic, no patient's.

All but the JPEG baseline hold the 16 rows and 12 columns of `ramp`, unsigned, 16 bits, losslessly; the baseline's are
all 100, 8 bits. Encoders: pydicom 3.0 (RLE, JPEG-LS), GDCM 3.0 (JPEG lossless, JPEG 2000), Pillow (JPEG baseline),
imagecodecs 2026.3.6 with OpenJPH 0.26.3 (HTJ2K).
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

FLAT = 100


def ramp() -> NDArray[np.uint16]:
    """Return stored values from 0 to 4095, shape (16, 12), in no order that a codec could hide an error behind."""
    row, column = np.mgrid[:16, :12]
    stored: NDArray[np.uint16] = ((row * 389 + column * 173) % 3000).astype(np.uint16)
    stored[-1, -1] = 4095
    return stored


_RLE = (
    "0ssI2KmY&$5CH%H00000000000000000000000000000000000000000000000000000000000000000{{RUA0s;dB1O)~L2MGZJ0s{mD1qK"
    "EO{|NsB2?PZN1_uWS2?+`d1O){K2L}iV2?`4U{{{yK2nY!Z3JU=L0SgBR2nh-b3jhHD0t5dE2MP-S009C51OEgI3JU-L0RjR81O){K2><~B0"
    "s{jC1qBBG2MYlL0|NvF1_lQR2nh)T1Ox>J1_uZT3I7TS1O)~M2M7rX3Jd=L3kC-V2nh)a3jhEC0{;jH2?`1e00994{{ssN3JMDV0RaL70|W&"
    "N3jhEC0s;dB1O)~U3jnQJ2ee@hyJ!`{ZwrMo-;6otlR)j7NAwE{w`38%YZ%3HAIy0Rk38v?L-3tS_oPuq3lza_8_0Dc&wOzn%L|!C^Po-or<"
    "_UlqfiST%XlRk$8;gidnnZlqfkZipG^6tQvj`63veCEcO=n%E7*lH-wXAkPyDG?1F&5Rw`2=?C)9y1+lV#dk38uM|EyUCvtSLnXA}vx3xqM="
    "i#X+yKQ!TvI|~W6V-US+Uktfs6Tl0OJLr{)H{_8%>zG9g69~0p54>p>!*Ct{"
)
_JPEG_LOSSLESS = (
    "|JeV-01FTR5C9AT0TBTI!~hon0RaI40000000000000002nh@j|Jncu0RaF3008A`wOXxKt5vGiYPDNoRjSo$wOXxKt5vGiZG~2=RjSo$wOX"
    "xKt5voYTCG;ARjSo$wOXyo>0wo>)oQg`tyZgYdMj176<V!Ut5vGpo{H6KwOe6Ts?}~!MQXKLtyZg5wiR2G(ORumt5vGiYPDOJF<Pxwt5vGiY"
    "PDLeR@hZ)wOXxKt5vGiYPDNoRjSo$wOXxKt5vGiZG~2=RjSo$wOXxK<n&h9Rcf_btyZg5xjhxC)oq1Vt5vGiZcjyOwOXxK*i~w^Ta(dRtyZg"
    "5s?}|U$>^<Ct5vGiYPDLe)5ZVU"
)
_JPEG_LOSSLESS_SV1 = (
    "|JeV-01FTR5C9AT0TBTI!~hon0RaI40000000000000002nh@j|Jncu0RaF3008A`wOXxKt5vGiYPDNoRjSo$wOXxKt5vGiZG~2=RjSo$wOX"
    "xKt5voYTCG;ARjSo$wOXyo>0wo>)oQg`tyZgYdMj176<V!Ut5vGpo{H6KwOe6Ts?}~!MQXKLtyZg5wiR2G(ORumt5vGiYPDOJF<Pxwt5vGiY"
    "PDLeR@hZ)wOXxKt5vGiYPDNoRjSo$wOXxKt5vGiZG~2=RjSo$wOXxK<n&h9Rcf_btyZg5xjhxC)oq1Vt5vGiZcjyOwOXxK*i~w^Ta(dRtyZg"
    "5s?}|U$>^<Ct5vGiYPDLe)5ZVU"
)
_JPEG_LS = (
    "|JeWc01FTR5C9AT0TBTI_y7$7|Nj6I07C&306_oR00;pA00000s?AxeHD6WK^&LM=()6AcR;tFWs%lz>ou+9@MOxuXGKirl3G#TICke7?Rya"
    "arm?g<#RFoviB1Dh?2xo&M$l^4NBFLg7hyVZqVSpSbf+7fV7=<ASFaQ7+xC4b?(y_p>ObY-26N~_WI7R_~UzJ&aUqAwPfN*Q-_`R=7%J8ay1"
    "mghUmvz~7T^BXUaa<Kkfm_z)wQO3}rKM<D+{&TAIb4o66NSLvZ#P?toxir*O_sx5tkr5XzyJVp;0FAus!EEW&u240004F13<9Qas%n^}sY*x"
    "yTkr+_Nm3eC_@k)GC;(jW3-XGhC~6Z(-oOIwfFKvu2|-X3^!YsiI{^RL"
)
_JPEG_2000 = (
    "|4;u>04V?f0000C0000G00000000000000C0000G0000000000009pH0sm3}3;+NC0RRF71ONg5TmT9{fQX2Yh=`E?WB@7v0Yh?SVRU6=AYy"
    "qSM?^zSFHdk~Zc0!^M<8}(a&u{KZXhx)GcGXykN^q*00000^#B3?lh6DxSP@V#YG#ZGz<Gk7p^y~ms3ajW+}L}-e<Dynz^nuL6dbduH$57N6"
    "G+q0+3;_16;$C5cBVAV057bv1<?uR_fGXt_%d?q4<K-f;NLtnxP?NmGm+a)l#H1pz<(w1Kf!bd_#qj`8Y>R*?rwS6q3t`)!l!_tt0d<1OQIC"
    "fg4{yQcPxchX7m=3drL0n)OIiOe*_Vfxf(i=v6~=WdSdZezmK7{+J7XE#hb6Eo1xtw^d>}eFm|bNayqSK(8-@FeWRy!)LfV3O_OW6M(Vjz8N"
    "%VMrw$XfnLQkO{|k=4|Je"
)
_HTJ2K = (
    "|4;u>04YEK0000C0000G00000000000000C0000G0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdT"
    "mwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001K>z{&lfVEbvGfH8bN~Rr0206e62Jfx0JZ`LbO7W42Xp{C_yY%Y0KfnfzyK9c0"
    "0iLb+x`KIbO6@C*ji*c0mC!^94X-g3v>X$02aIe0c^kk7RYEME(D2%v+P6>X)zUe_w@&8f&hP)0BC?-G9#<l`jAD?#s=AaCOzO3^g@BXmjKc"
    "Lp$z51Q_xfzy<0oPx=7{#d7?r9eV72i04~-50d_C|3#fKsB@lM03o^EAmkhfE5-aSgOC39`Sld;X)Y-)@WYmRStmyl|5wT#q+p&i3glHG^pi"
    "lvJky<j=#g76~U68S*c2VcjWJHU)2+}Uqz>g4C7leuaz%+O#>4&j`<?Qeu^rKJ#+U4zRce~qlJMFf!-R*Aoc5Sy^H2J_do@ig`gk=T7gv?+q"
    "^y5+i|Je"
)
_JPEG_BASELINE = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00IF40RaI50RaI50s;a81OoyB0s;jD1Oo&H1qKEN1qKEN2MGuU2MGrT1_%oX2?`1d3JL}Y3k(Yi3<("
    "Mf3je?W3kU!Z01N>E5di<h02KfM0RR910000000000000002mizX6c7Ob00000000000000000030+5iXv0RR9$0EdA8*#"
)

# Codestreams of the lossless form are legal in the general form's transfer syntax, too.
FRAMES: dict[uid.UID, bytes] = {
    syntax: base64.b85decode(text)
    for syntax, text in {
        uid.RLELossless: _RLE,
        uid.JPEGBaseline8Bit: _JPEG_BASELINE,
        uid.JPEGLossless: _JPEG_LOSSLESS,
        uid.JPEGLosslessSV1: _JPEG_LOSSLESS_SV1,
        uid.JPEGLSLossless: _JPEG_LS,
        uid.JPEGLSNearLossless: _JPEG_LS,
        uid.JPEG2000Lossless: _JPEG_2000,
        uid.JPEG2000: _JPEG_2000,
        uid.HTJ2KLossless: _HTJ2K,
        uid.HTJ2KLosslessRPCL: _HTJ2K,
        uid.HTJ2K: _HTJ2K,
    }.items()
}
UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
