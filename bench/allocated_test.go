package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"strings"
	"testing"
)

func TestAllocationsAreBelowTheProfile(t *testing.T) {
	const profile = "heap profile: 1: 2 [3: 4] @ heap/1048576\n1: 2 [3: 4] @ 0x1\n\n# runtime.MemStats\n" +
		"# Alloc = 5\n# TotalAlloc = 12000\n# Sys = 7\n# Mallocs = 70\n# Frees = 9\n"
	tests := map[string]struct {
		profile string
		want    allocations
		wantErr bool
	}{
		"ordinary":       {profile: profile, want: allocations{bytes: 12_000, pieces: 70}},
		"without an end": {profile: strings.TrimRight(profile, "\n"), want: allocations{bytes: 12_000, pieces: 70}},
		"cut off":        {profile: profile[:strings.Index(profile, "# Mallocs")], wantErr: true},
		"no number":      {profile: "# TotalAlloc = many\n", wantErr: true},
		"empty":          {wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseAllocations(strings.NewReader(tc.profile))
			if (err != nil) != tc.wantErr {
				t.Fatalf("got error %v, want one: %t", err, tc.wantErr)
			}
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAllocationsOfThisProcessAreFound(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(pprof.Index))
	defer server.Close()
	a := admin(server.Listener.Addr().String())
	first, err := a.allocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.allocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if more := second.minus(first); more.bytes <= 0 || more.pieces <= 0 {
		t.Errorf("got %v and then %v, want more", first, second)
	}
}

func TestReadingsDoNotCountTheirOwnAllocations(t *testing.T) {
	got := perConnect([3]allocations{{1000, 10}, {1500, 16}, {4000, 42}}, 10)
	if want := [2]float64{200, 2}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
