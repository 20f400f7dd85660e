package main

import (
	"slices"
	"testing"
)

func TestSizesAreParsed(t *testing.T) {
	tests := map[string]struct {
		list    string
		parse   func(string, int) ([]int, error)
		want    []int
		wantErr bool
	}{
		"one":                 {list: "3000", parse: parseAscending, want: []int{3000}},
		"several":             {list: "3000,9000", parse: parseAscending, want: []int{3000, 9000}},
		"largest":             {list: "9500", parse: parseAscending, want: []int{9500}},
		"too large":           {list: "9501", parse: parseAscending, wantErr: true},
		"zero":                {list: "0", parse: parseAscending, wantErr: true},
		"not ascending":       {list: "3000,1000", parse: parseAscending, wantErr: true},
		"twice the same":      {list: "3000,3000", parse: parseAscending, wantErr: true},
		"nothing":             {list: "", parse: parseAscending, wantErr: true},
		"no number":           {list: "3000,many", parse: parseAscending, wantErr: true},
		"frames in any order": {list: "8192,64", parse: parseSizes, want: []int{8192, 64}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tc.parse(tc.list, maxTunnels)
			if (err != nil) != tc.wantErr {
				t.Fatalf("got error %v, want one: %t", err, tc.wantErr)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestFlagsAreChecked(t *testing.T) {
	tests := map[string]struct {
		args    []string
		wantErr bool
	}{
		"none":                     {nil, false},
		"quick":                    {[]string{"-quick"}, false},
		"no second reading":        {[]string{"-long-settle", "0"}, false},
		"second before the first":  {[]string{"-long-settle", "1s"}, true},
		"watched backwards":        {[]string{"-watch", "-1s"}, true},
		"superfluous argument":     {[]string{"plain"}, true},
		"no runs":                  {[]string{"-runs", "0"}, true},
		"growth":                   {[]string{"-growth", "1000,3000"}, false},
		"growth beyond the limit":  {[]string{"-growth", "1000,30000"}, true},
		"growth and profiles":      {[]string{"-growth", "10", "-profiles", "x"}, true},
		"slow peers":               {[]string{"-slow", "100"}, false},
		"too many slow peers":      {[]string{"-slow", "1001"}, true},
		"slow peers and growth":    {[]string{"-slow", "100", "-growth", "10"}, true},
		"idle tunnels beside":      {[]string{"-beside", "100,9000"}, false},
		"too many of them":         {[]string{"-beside", "9451"}, true},
		"a fleet":                  {[]string{"-fleet", "1000"}, false},
		"too large a fleet":        {[]string{"-fleet", "2001"}, true},
		"a fleet and slow peers":   {[]string{"-fleet", "10", "-slow", "10"}, true},
		"a storm of ourselves":     {[]string{"-storm", "10", "-self"}, true},
		"broken expression":        {[]string{"-rows", "("}, true},
		"frames beyond the volume": {[]string{"-bulk-mib", "1"}, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := parseFlags(tc.args); (err != nil) != tc.wantErr {
				t.Errorf("got error %v, want one: %t", err, tc.wantErr)
			}
		})
	}
}
