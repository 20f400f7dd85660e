package orca

import (
	"encoding/base64"
	"math"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// bin is a report in base64: metrics by the number of their field, and those of a map.
func bin(fields map[protowire.Number]float64, named map[string]float64) string {
	var raw []byte
	for field, value := range fields {
		raw = protowire.AppendTag(raw, field, protowire.Fixed64Type)
		raw = protowire.AppendFixed64(raw, math.Float64bits(value))
	}
	for name, value := range named {
		var entry []byte
		entry = protowire.AppendTag(entry, 1, protowire.BytesType)
		entry = protowire.AppendString(entry, name)
		entry = protowire.AppendTag(entry, 2, protowire.Fixed64Type)
		entry = protowire.AppendFixed64(entry, math.Float64bits(value))
		raw = protowire.AppendTag(raw, 8, protowire.BytesType)
		raw = protowire.AppendBytes(raw, entry)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func TestReports(t *testing.T) {
	t.Parallel()
	// As it is in the description of ORCA: cpu 0.1, eps, foo and bar.
	const published = "CZqZmZmZmbk/MQAAAAAAAABAQg4KA2ZvbxGamZmZmZm5P0IOCgNiYXIRmpmZmZmZyT8="
	for name, test := range map[string]struct {
		metrics string
		value   string
		want    float64
		problem string
	}{
		"text":                          {"", "TEXT cpu_utilization=0.3, mem_utilization=0.8, rps_fractional=10.0, eps=1,\tnamed_metrics.a=0.4", 0.3, ""},
		"the application's comes first": {"", "TEXT cpu_utilization=0.9,application_utilization=0.5", 0.5, ""},
		"unless it is 0":                {"", "TEXT cpu_utilization=0.9,application_utilization=0", 0.9, ""},
		"more than 1":                   {"", "TEXT application_utilization=1.5", 1.5, ""},
		"named ones, the largest":       {"named_metrics.a cpu_utilization", "TEXT cpu_utilization=0.3, named_metrics.a=0.4, application_utilization=0.9", 0.4, ""},
		"named ones, one above 0":       {"named_metrics.a cpu_utilization", "TEXT named_metrics.a=-4,cpu_utilization=0.1", 0.1, ""},
		"a resource":                    {"utilization.disk", "TEXT utilization.disk=0.7", 0.7, ""},
		"none that counts":              {"", "TEXT mem_utilization=0.8", 0, ""},
		"twice":                         {"", "TEXT cpu_utilization=0.1,cpu_utilization=0.2", 0.2, ""},
		"JSON":                          {"", `JSON {"cpu_utilization": 0.3, "eps": 1, "named_metrics": {"a": 0.4}}`, 0.3, ""},
		"JSON with protobuf's names":    {"", `JSON {"cpuUtilization": "0.3", "rps": "7"}`, 0.3, ""},
		"JSON, named":                   {"named_metrics.a-b", `JSON {"namedMetrics": {"a-b": 0.4, "c": "NaN"}}`, 0.4, ""},
		"JSON, both spellings":          {"", `JSON {"cpu_utilization": 0.3, "cpuUtilization": 0.2}`, 0.3, ""},
		"BIN":                           {"", "BIN " + published, 0.1, ""},
		"BIN, named":                    {"named_metrics.foo named_metrics.bar", "BIN " + published, 0.2, ""},
		"BIN without padding":           {"", "BIN " + strings.TrimRight(published, "="), 0.1, ""},
		"BIN of the application":        {"", "BIN " + bin(map[protowire.Number]float64{1: 0.2, 9: 0.6}, nil), 0.6, ""},
		"BIN, nothing":                  {"", "BIN ", 0, ""},

		"negative":        {"", "TEXT cpu_utilization=-1", 0, ""},
		"no number":       {"", "TEXT cpu_utilization=NaN", 0, ""},
		"infinite":        {"", "TEXT cpu_utilization=Inf", 0, ""},
		"out of range":    {"", "TEXT cpu_utilization=1e999", 0, ""},
		"huge":            {"", "TEXT cpu_utilization=1e300", 1e300, ""},
		"BIN, no number":  {"", "BIN " + bin(map[protowire.Number]float64{1: math.NaN()}, nil), 0, ""},
		"BIN, infinite":   {"", "BIN " + bin(map[protowire.Number]float64{1: math.Inf(1)}, nil), 0, ""},
		"JSON, infinite":  {"", `JSON {"cpu_utilization": "Infinity"}`, 0, ""},
		"JSON, null":      {"", `JSON {"cpu_utilization": null}`, 0, "no number"},
		"JSON, too deep":  {"", "JSON " + strings.Repeat("[", 15000), 0, "JSON: "},
		"JSON, no object": {"", "JSON 1", 0, "JSON: "},
		"JSON, a list":    {"named_metrics.a", `JSON {"named_metrics": []}`, 0, "named_metrics"},
		"words":           {"", "TEXT cpu_utilization=much", 0, "no number"},
		"no pairs":        {"", "TEXT cpu", 0, "no list"},
		"empty":           {"", "TEXT ", 0, "no list"},
		"another form":    {"", "XML <a/>", 0, "neither"},
		"no form":         {"", "cpu_utilization=0.3", 0, "neither"},
		"no base64":       {"", "BIN !", 0, "no base64"},
		"half a message":  {"", "BIN CZqZmZmZ", 0, "BIN: "},
		"half a name":     {"", "BIN Qg4KA2Zv", 0, "BIN: "},
		"no message":      {"", "BIN ////", 0, "BIN: "},
		"a MiB of TEXT":   {"", "TEXT cpu_utilization=0.3" + strings.Repeat(",a=1", 1<<18), 0, "longer than"},
		"a MiB of BIN":    {"", "BIN " + strings.Repeat("A", 1<<20), 0, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := NewReader(strings.Fields(test.metrics)...)
			if err != nil {
				t.Fatal(err)
			}
			header := http.Header{Field: {test.value}}
			got, err := r.Read(header)
			if got != test.want || (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %v, %v; want %v, %q", got, err, test.want, test.problem)
			}
			if value, isBin := strings.CutPrefix(test.value, "BIN "); isBin {
				if again, err := r.Read(http.Header{BinaryField: {value}}); again != test.want || (err == nil) != (test.problem == "") {
					t.Errorf("in its own field: got %v, %v; want %v, %q", again, err, test.want, test.problem)
				}
			}
		})
	}
}

func TestNoReport(t *testing.T) {
	t.Parallel()
	if u, err := new(Reader).Read(http.Header{"X": {"TEXT cpu_utilization=1"}}); u != 0 || err != nil {
		t.Errorf("got %v, %v", u, err)
	}
}

func TestMetricsThatMayCount(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "cpu", "named_metrics", "named_metrics.", "request_cost.a", "eps", "CPU_utilization"} {
		if r, err := NewReader(name); err == nil {
			t.Errorf("%q makes %v", name, r)
		}
	}
}

func FuzzReport(f *testing.F) {
	for _, seed := range []string{
		"TEXT cpu_utilization=0.3, named_metrics.a=0.4", `JSON {"cpuUtilization": "0.3", "named_metrics": {"a": 1}}`,
		"BIN CZqZmZmZmbk/MQAAAAAAAABAQg4KA2ZvbxGamZmZmZm5P0IOCgNiYXIRmpmZmZmZyT8=",
	} {
		f.Add(seed)
	}
	named, err := NewReader("named_metrics.a", "cpu_utilization", "utilization.b")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, r := range []*Reader{new(Reader), named} {
			for _, field := range []string{Field, BinaryField} {
				u, err := r.Read(http.Header{field: {value}})
				if !(u >= 0) || math.IsInf(u, 1) || err != nil && (u != 0 || len(err.Error()) > 300) {
					t.Errorf("%q in %s: %v, %v", value, field, u, err)
				}
				if again, _ := r.Read(http.Header{field: {value}}); again != u {
					t.Errorf("%q in %s: %v, then %v", value, field, u, again)
				}
			}
		}
	})
}
