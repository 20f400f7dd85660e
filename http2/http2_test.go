package http2

// This file must import nothing that waits for the servers, as the package would then.
import "testing"

func TestSwitchedOn(t *testing.T) {
	for _, test := range []struct{ had, want string }{
		{"", "http2xconnect=1"},
		{"http2xconnect=1", "http2xconnect=1"},
		{"http2xconnect=0", "http2xconnect=0"},
		{"http2xconnect=", "http2xconnect="},
		{"gctrace=1", "gctrace=1,http2xconnect=1"},
		{"gctrace=1,", "gctrace=1,,http2xconnect=1"},
		{"gctrace=1,http2xconnect=0", "gctrace=1,http2xconnect=0"},
		{"http2xconnect=0,gctrace=1", "http2xconnect=0,gctrace=1"},
		{"a=http2xconnect=0", "a=http2xconnect=0,http2xconnect=1"},
		{"nohttp2xconnect=0", "nohttp2xconnect=0,http2xconnect=1"},
		{"http2xconnect", "http2xconnect,http2xconnect=1"},
	} {
		if got := switchedOn(test.had); got != test.want {
			t.Errorf("%q becomes %q, want %q", test.had, got, test.want)
		}
	}
}
