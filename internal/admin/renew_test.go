package admin

import (
	"encoding/json"
	"testing"
)

func TestTimesAreStringsOrNumbers(t *testing.T) {
	for text, want := range map[string]Time{
		`"2h"`: "2h", `"2\u0068"`: "2h", `1767225600`: "1767225600", `1.7e9`: "1.7e9", `null`: "", `"\""`: `"`, `{"a": 1}`: `{"a": 1}`,
	} {
		var got Time
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", text, got, err, want)
		}
	}
}
