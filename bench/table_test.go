package main

import (
	"math"
	"testing"
	"time"
)

func TestRatioMarksOnlyRowsThatWeLose(t *testing.T) {
	tests := map[string]struct {
		ours, theirs []float64
		want         string
	}{
		"less is a win":                   {[]float64{1}, []float64{2}, "0.50"},
		"equal is no loss":                {[]float64{2}, []float64{2}, "1.00"},
		"a loss too small to print":       {[]float64{2.001}, []float64{2}, "1.00"},
		"loss beyond noise":               {[]float64{3, 3.1, 3.2}, []float64{2, 2.1, 2.2}, "1.48 **lost**"},
		"loss with overlapping repeats":   {[]float64{1, 3, 3}, []float64{2, 2, 2}, "1.50 lost?"},
		"loss in a single run":            {[]float64{3}, []float64{2}, "1.50 **lost**"},
		"nothing to compare with":         {[]float64{1}, nil, "–"},
		"comparison with zero is omitted": {[]float64{1}, []float64{0}, "–"},
		"they have given something back":  {[]float64{1}, []float64{-1}, "–"},
		"they can't":                      {[]float64{1}, []float64{math.NaN()}, "–"},
		"they can't always":               {[]float64{1}, []float64{math.NaN(), 2}, "0.50"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := formatRatio(tc.ours, tc.theirs); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTableHasOneLinePerMeasuredRow(t *testing.T) {
	r := make(results)
	r.add("memory", "ours", 4)
	r.add("memory", "theirs", 80)
	r.add("goroutines", "ours", 0)
	r.add("goroutines", "theirs", math.NaN())
	r.add("latency", "ours", 7)
	rows := []row{{"memory", "KiB"}, {"never measured", "s"}, {"goroutines", ""}, {"latency", "µs"}}
	want := `| | unit | ours | theirs | ratio |
|---|---|---:|---:|---:|
| memory | KiB | 4.00 | 80.0 | 0.05 |
| goroutines |  | 0.00 | – | – |
| latency | µs | 7.00 | failed | – |
`
	if got := table(rows, []string{"ours", "theirs"}, r, nil); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestTableTellsGoalsIfThereAreAny(t *testing.T) {
	r := make(results)
	r.add("memory", ourName, 4)
	r.add("latency", ourName, 8)
	goals := map[string][]goal{"memory": {{limit: 5}}}
	want := `| | unit | websocket_proxy | goal |
|---|---|---:|---|
| memory | KiB | 4.00 | ≤ 5: met |
| latency | µs | 8.00 | – |
`
	if got := table([]row{{"memory", "KiB"}, {"latency", "µs"}}, []string{ourName}, r, goals); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestNumbersKeepThreeSignificantDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.0123: "0.0123", 0.000123: "0.0001", 0.7349: "0.735", 3.456: "3.46", 22.34: "22.3", 520.4: "520", 12345: "12345",
	} {
		if got := formatNumber(v); got != want {
			t.Errorf("%v: got %q, want %q", v, got, want)
		}
	}
}

func TestMedianOfEvenCountIsTheMeanOfTheMiddle(t *testing.T) {
	if got := median([]float64{9, 1, 3, 2}); got != 2.5 {
		t.Errorf("got %v, want 2.5", got)
	}
}

func TestPercentileLeavesTheStatedFractionBelow(t *testing.T) {
	values := make([]time.Duration, 100)
	for i := range values {
		values[i] = time.Duration(100 - i)
	}
	if got := percentile(values, 0.99); got != 100 {
		t.Errorf("got %d, want 100", got)
	}
	if got := percentile(values[:1], 0.99); got != 1 {
		t.Errorf("got %d, want 1", got)
	}
}

func TestSpreadsAreFromLeastToMost(t *testing.T) {
	r := results{
		"echo":   {"a": {3, 1, 2}, "b": {math.NaN()}},
		"memory": {"a": {10.04}, "b": {math.NaN(), 7, 8}},
	}
	got := spreads([]row{{"echo", "µs"}, {"no such row", ""}, {"memory", "KiB"}}, []string{"a", "b"}, r)
	want := `| | unit | a | b |
|---|---|---:|---:|
| echo | µs | 1.00 … 3.00 | – |
| memory | KiB | 10.0 … 10.0 | 7.00 … 8.00 |
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
