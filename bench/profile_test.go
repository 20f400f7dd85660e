package main

import "testing"

func TestFileNamesHoldNothingButWords(t *testing.T) {
	for row, want := range map[string]string{
		"CPU per echo of 64 B, plain":                "cpu-per-echo-of-64-b-plain",
		"CPU per GiB to client, 64 KiB frames, TLS":  "cpu-per-gib-to-client-64-kib-frames-tls",
		"p99 echo latency at 1,000 msg/s, plain/../": "p99-echo-latency-at-1-000-msg-s-plain",
	} {
		if got := fileName(row); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
