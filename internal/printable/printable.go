// Package printable makes text of others safe to show. What clients, upstreams and
// stored documents say is shown on terminals, in logs and in JSON. It may hold
// controls that move the cursor, colour or reorder text: C0, DEL, C1 (U+0080 to
// U+009F, which neither zap nor encoding/json escapes), and those of bidirectional
// text. Whatever is shown is printable.
package printable

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Is reports whether s has nothing but text that can be seen, and spaces.
func Is(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Text is s with everything else escaped, as in a string of Go.
func Text(s string) string {
	if Is(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteRune(r)
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// Cut is Text, at most so many bytes of it: it ends before the first character, or
// escape, for which there is no room. What follows is not looked at.
func Cut(s string, most int) string {
	if len(s) <= most && Is(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		_, size := utf8.DecodeRuneInString(s)
		shown := Text(s[:size])
		if b.Len()+len(shown) > most {
			break
		}
		b.WriteString(shown)
		s = s[size:]
	}
	return b.String()
}

// Exact is s so that no other text looks the same: what is not printable is escaped by its
// number, as \x0a, and each backslash is doubled, but only where something is escaped or
// looks as if it were, so that a\b stays as it is. Of what would have more bytes than most,
// it is the beginning and an ellipsis, with which no whole text ends.
func Exact(s string, most int) (shown string, whole bool) {
	if len(s) <= most && isExact(s) {
		return s, true
	}
	var b strings.Builder
	room := 0 // how much of it leaves room for the ellipsis
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		piece := s[:size]
		switch {
		case r == '\\':
			piece = `\\`
		case s == ellipsis, !Is(piece):
			piece = numbered(r, piece)
		}
		if b.Len()+len(piece) > most {
			return b.String()[:room] + ellipsis, false
		}
		b.WriteString(piece)
		if b.Len() <= most-len(ellipsis) {
			room = b.Len()
		}
		s = s[size:]
	}
	return b.String(), true
}

const ellipsis = "…"

// isExact reports whether s can be nothing but itself.
func isExact(s string) bool {
	return Is(s) && !strings.HasSuffix(s, ellipsis) &&
		!strings.Contains(s, `\x`) && !strings.Contains(s, `\u`) && !strings.Contains(s, `\U`)
}

// numbered is a character, or a byte that is none, by its number.
func numbered(r rune, bytes string) string {
	switch {
	case len(bytes) == 1:
		return fmt.Sprintf(`\x%02x`, bytes[0])
	case r <= 0xFFFF:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}

// JSON is v as JSON that is printable, and the same to those who parse it.
func JSON(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return Escape(text), nil
}

// Escape escapes what is not printable in the strings of a JSON text. The
// rest of one is ASCII.
func Escape(text []byte) []byte {
	if Is(string(text)) {
		return text
	}
	escaped := make([]byte, 0, len(text)+len(text)/8)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == '\n' || unicode.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			escaped = utf8.AppendRune(escaped, r)
		} else {
			for _, unit := range utf16.Encode([]rune{r}) {
				escaped = append(escaped, '\\', 'u')
				const digits = "0123456789abcdef"
				for shift := 12; shift >= 0; shift -= 4 {
					escaped = append(escaped, digits[unit>>shift&0xF])
				}
			}
		}
		text = text[size:]
	}
	return escaped
}
