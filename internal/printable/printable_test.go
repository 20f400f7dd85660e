package printable

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestPrintableEscapesWhatCannotBeSeen(t *testing.T) {
	for s, want := range map[string]string{
		"":                      "",
		"10.0.0.1:80":           "10.0.0.1:80",
		`root@vm "x" \y`:        `root@vm "x" \y`,
		"Zoë 東京 \U0001F600":     "Zoë 東京 \U0001F600",
		"a\x1b[31mb":            `a\x1b[31mb`,
		"a\u009b31m":            `a\u009b31m`,
		"a\x9b31m":              `a\x9b31m`, // a C1 of 8-bit terminals, and no UTF-8
		"a\x7f":                 `a\x7f`,
		"\ufffd and \xff":       "\ufffd and \\xff",
		"line 1\nline 2\ttab":   `line 1\nline 2\ttab`,
		"\u202egnp.exe":         `\u202egnp.exe`,
		"\u2066\u2069\u200f":    `\u2066\u2069\u200f`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"\U000E0041":            `\U000e0041`, // a tag, which is never seen
	} {
		if got := Text(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
	if got := Text(testbed.Hostile); !Is(got) {
		t.Errorf("%q is shown as %q", testbed.Hostile, got)
	}
}

// TestExactTextsAreNeverTheSame has all texts of a few pieces, short and about as long as
// there is room for.
func TestExactTextsAreNeverTheSame(t *testing.T) {
	const most = 13
	pieces := []string{"a", "\n", "\\", "n", "x", "0", "u", "2026", "…", "\xff", "\u00ff", "\u009b", "\U000E0041"}
	texts := map[string]bool{"": true}
	for range 4 {
		for text := range maps.Clone(texts) {
			for _, piece := range pieces {
				texts[text+piece] = true
			}
		}
	}
	whole, cut := make(map[string]string), make(map[string]bool)
	for text := range texts {
		for _, text := range []string{text, "aaaaaaaaa" + text} {
			shown, isWhole := Exact(text, most)
			if len(shown) > most || !Is(shown) {
				t.Fatalf("%q is shown as %q", text, shown)
			}
			if !isWhole {
				cut[shown] = true
				continue
			}
			if other, same := whole[shown]; same && other != text {
				t.Fatalf("%q and %q are both shown as %q", text, other, shown)
			}
			whole[shown] = text
		}
	}
	for shown := range cut {
		if text, same := whole[shown]; same {
			t.Errorf("what is cut is shown as %q, like %q", shown, text)
		}
	}
	if len(whole) < 1000 || len(cut) < 1000 {
		t.Errorf("only %d are whole and %d cut", len(whole), len(cut))
	}
}

func TestExactLeavesWhatIsPlain(t *testing.T) {
	for s, want := range map[string]string{
		`CORP\nick`: `CORP\nick`, "a\nb": `a\x0ab`, `a\x0ab`: `a\\x0ab`, "\\\n": `\\\x0a`, "7 … 9": "7 … 9", "7 …": `7 \u2026`,
		"\u202egnp.exe": `\u202egnp.exe`, "\xff": `\xff`, "Zoë": "Zoë", strings.Repeat("é", 11): strings.Repeat("é", 8) + "…",
		strings.Repeat("a", 21): strings.Repeat("a", 17) + "…", strings.Repeat("a", 20): strings.Repeat("a", 20),
	} {
		if got, _ := Exact(s, 20); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
}

func TestPrintableJSONIsTheSame(t *testing.T) {
	for _, s := range []string{"", "plain", "Zoë", testbed.Hostile, "\U000E0041\U0001F600", "\ufffd", `"\u001b"`} {
		text, err := JSON(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(text, &got); err != nil || got[s] != s || len(got) != 1 {
			t.Errorf("%q becomes %s, which is read as %q (%v)", s, text, got, err)
		}
		if !Is(string(text)) {
			t.Errorf("%q becomes %q", s, text)
		}
	}
	// Whoever passes on what others have written, passes it on line by line.
	if got := string(Escape([]byte("{\n\"a\": \"\xff\u0080\"}"))); got != "{\n\"a\": \"\\ufffd\\u0080\"}" {
		t.Errorf("got %q", got)
	}
}

func TestCutEndsBetweenCharactersAndEscapes(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 4, ""},
		{"abcd", 4, "abcd"},
		{"abcde", 4, "abcd"},
		{"aé", 3, "aé"},
		{"aéb", 2, "a"},
		{"a\x1b[31m", 5, `a\x1b`},
		{"a\x1b[31m", 4, "a"},
		{"\x00\x00", 4, `\x00`},
		{"\xff", 4, `\xff`},
		{"\u202eab", 6, `\u202e`},
		{"\u202eab", 5, ""},
		{"\x00" + strings.Repeat("a", 1<<20), 8, `\x00aaaa`},
	} {
		if got := Cut(c.text, c.most); got != c.want {
			t.Errorf("%.20q cut at %d is %q, want %q", c.text, c.most, got, c.want)
		}
	}
}
