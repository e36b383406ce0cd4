"""The chart library that pages hold, as one script: Vega-Embed with Vega-Lite, Vega and its interpreter.

python -m kvpress_eval.report.vega_bundle      # writes page/vega.js anew, with the versions of the extra `picture`

The script is kept in the tree, so that a report needs neither the library nor a network, and the same rows give the
same bytes wherever it is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kvpress.errors import extra

from ..errors import UsageError
from ..machine.files import write_whole

__all__ = ["OUT", "bundle", "main"]

OUT = Path(__file__).parent / "page" / "vega.js"
_NOTICE = """\
// Vega {vega}, Vega-Lite {lite} and Vega-Embed {embed}, bundled by vl-convert. github.com/vega
// Copyright (c) 2015-2025, University of Washington Interactive Data Lab and contributors. BSD 3-Clause License:
// Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
// following conditions are met: 1. Redistributions of source code must retain the above copyright notice, this list of
// conditions and the following disclaimer. 2. Redistributions in binary form must reproduce the above copyright notice,
// this list of conditions and the following disclaimer in the documentation and/or other materials provided with the
// distribution. 3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or
// promote products derived from this software without specific prior written permission. THIS SOFTWARE IS PROVIDED BY
// THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
// THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE
// COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
// DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS;
// OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR
// TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE
// POSSIBILITY OF SUCH DAMAGE.
// With parts of D3: copyright 2010-2023 Mike Bostock. ISC License: permission to use, copy, modify, and/or distribute
// this software for any purpose with or without fee is hereby granted, provided that the above copyright notice and
// this permission notice appear in all copies. THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
// WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE
// AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
// LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
// OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
"""


def bundle() -> str:
    """The script; it sets `vegaEmbed` and nothing else.

    Raises:
        UsageError: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise UsageError(f"bundling the chart library needs vl-convert; {extra('picture')}") from None
    lite = vl_convert.get_vegalite_versions()[-1]
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", lite)
    versions = {"vega": vl_convert.get_vega_version(), "lite": lite, "embed": vl_convert.get_vega_embed_version()}
    # inside a page nothing may end or open a script
    assert "</script" not in script.lower() and "<!--" not in script
    return f"{_NOTICE.format(**versions)}(() => {{\n{script.strip()}\n}})();\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write it; returns an exit code."""
    try:
        write_whole(OUT, bundle())
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {OUT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
