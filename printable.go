package websocketproxy

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"go.uber.org/zap"
)

// What clients, upstreams and the stored document say is shown on terminals, in
// logs and in JSON. It may hold controls that move the cursor, colour or reorder
// text: C0, DEL, C1 (U+0080 to U+009F, which neither zap nor encoding/json
// escapes), and those of bidirectional text. Whatever is shown is printable.

// isPrintable reports whether s has nothing but text that can be seen, and
// spaces.
func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// printable is s with everything else escaped, as in a string of Go.
func printable(s string) string {
	if isPrintable(s) {
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

// failure is the field of an error in the log. What is wrong may be told in the
// words of a peer.
func failure(err error) zap.Field {
	return zap.String("error", printable(err.Error()))
}

// printableJSON is v as JSON that is printable, and the same to those who parse
// it.
func printableJSON(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return escapeJSON(text), nil
}

// escapeJSON escapes what is not printable in the strings of a JSON text. The
// rest of one is ASCII.
func escapeJSON(text []byte) []byte {
	if isPrintable(string(text)) {
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
