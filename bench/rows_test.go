package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRowsAreSelectedByName(t *testing.T) {
	s := quickScale
	s.tlsFrames = []int{4096, 1 << 20}
	got := rowNames(selectMeasurements(allMeasurements(s), regexp.MustCompile("to client.*TLS")))
	want := "CPU per GiB to client, 4 KiB frames, TLS; CPU per GiB to client, 1 MiB frames, TLS"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNoRowHasTheNameOfAnother(t *testing.T) {
	names := strings.Split(rowNames(allMeasurements(quickScale)), "; ")
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			t.Errorf("%q comes twice", name)
		}
	}
}

func TestIdleRowsFollowTheSizes(t *testing.T) {
	tests := map[string]struct {
		load idleLoad
		want string
	}{
		"one size": {
			idleLoad{sizes: []int{500}},
			"memory per idle tunnel at 500; descriptors per idle tunnel",
		},
		"several sizes": {
			idleLoad{sizes: []int{1000, 3000, 9000}, watch: time.Second},
			"memory per idle tunnel at 1,000; memory per further idle tunnel, 1,000 to 3,000; " +
				"memory per further idle tunnel, 3,000 to 9,000; descriptors per idle tunnel; CPU of 9,000 idle tunnels",
		},
		"a second reading": {
			idleLoad{sizes: []int{3000}, longSettle: 150 * time.Second},
			"memory per idle tunnel at 3,000; memory per idle tunnel at 3,000 after 150 s; descriptors per idle tunnel",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := rowNames([]measurement{{rows: tc.load.rows()}}); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestOnlyWaitingMeasurementsRunSideBySide(t *testing.T) {
	for clients, want := range map[int]int{0: 1, 3000: 6, 9000: 2, 9500: 1, maxClients + 1: 1} {
		if got := (measurement{clients: clients}).sideBySide(); got != want {
			t.Errorf("%d clients: got %d, want %d", clients, got, want)
		}
	}
}

func TestLatencyIsRepeatedMoreOften(t *testing.T) {
	o, err := parseFlags(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range selectMeasurements(allMeasurements(o.scale), regexp.MustCompile("latency|memory")) {
		want := 3
		if strings.Contains(m.rows[0].name, "latency") {
			want = 5
		}
		if got := m.repetitions(3); got != want {
			t.Errorf("%s: got %d, want %d", m.rows[0].name, got, want)
		}
	}
}

func TestThousandsAreSetApart(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 20_050: "20,050", 1_000_007: "1,000,007"} {
		if got := formatCount(n); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// rowNames joins the names of all rows.
func rowNames(list []measurement) string {
	var names []string
	for _, m := range list {
		for _, r := range m.rows {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, "; ")
}

func TestSlowPeersHaveRowsOfTheirOwn(t *testing.T) {
	o, err := parseFlags([]string{"-slow", "100", "-rows", "20 kB.*plain|nothing, TLS"})
	if err != nil {
		t.Fatal(err)
	}
	got := rowNames(selectMeasurements(o.planned(), o.rowFilter))
	want := "memory per tunnel, upstream reads 20 kB each 300ms, plain; " +
		"memory per tunnel, client reads 20 kB each 300ms, plain; " +
		"memory per tunnel, upstream reads nothing, TLS; memory per tunnel, client reads nothing, TLS"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
