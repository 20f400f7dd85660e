package main

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestStatIsParsedBehindTheCommandName(t *testing.T) {
	tests := map[string]struct {
		content string
		want    procStat
		wantErr bool
	}{
		"ordinary": {
			content: "12 (caddy) S 7 12 12 0 -1 4194560 100 0 3 0 250 50 4 6 20 0 9 0 1000 1 2",
			want:    procStat{parent: 7, childCPU: 100 * time.Millisecond},
		},
		"brackets and spaces in the name": {
			content: "12 (a) S 99 (b)) R 8 12 12 0 -1 4194560 100 0 3 0 1 2 3 4 20 0 9 0 1000",
			want:    procStat{parent: 8, childCPU: 70 * time.Millisecond},
		},
		"no name":          {content: "12 caddy S 7", wantErr: true},
		"too few fields":   {content: "12 (caddy) S 7 12 12", wantErr: true},
		"words for number": {content: "12 (c) S x 1 1 0 -1 4194560 1 0 3 0 1 2 3 4 20", wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.content))
			if (err != nil) != tc.wantErr {
				t.Fatalf("got error %v, want one: %t", err, tc.wantErr)
			}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestPSSIsTheLineOfThatExactName(t *testing.T) {
	content := "00400000-7ffe [rollup]\nRss:  900 kB\nPss_Anon: 3 kB\nPss:    412 kB\nPss_File: 9 kB\n"
	got, err := parsePSS([]byte(content))
	if err != nil || got != 412 {
		t.Errorf("got %d, %v; want 412", got, err)
	}
	if _, err := parsePSS([]byte("Rss: 900 kB\n")); err == nil {
		t.Error("a file without Pss was accepted")
	}
}

func TestTreeHoldsAllDescendantsAndNobodyElse(t *testing.T) {
	stats := map[int]procStat{
		1: {parent: 0}, 10: {parent: 1}, 11: {parent: 10}, 12: {parent: 10}, 13: {parent: 12}, 20: {parent: 1},
	}
	got := treeOf(10, stats)
	slices.Sort(got)
	if want := []int{10, 11, 12, 13}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOwnProcessHasMemoryAndDescriptors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	got, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got.pssKiB <= 0 || got.fds < 3 {
		t.Errorf("got %+v, want some memory and at least three descriptors", got)
	}
}

func TestOwnCPUTimeGrowsWithWork(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	before, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before <= 0 || after <= before {
		t.Errorf("got %v before and %v after working", before, after)
	}
}
