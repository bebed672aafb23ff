package request

import (
	"encoding/json"
	"testing"
)

func TestEnvVarsSurviveJSON(t *testing.T) {
	for _, want := range []EnvVar{{"A", "b"}, {"EMPTY", ""}, {"LATIN1", "caf\xe9"}} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got EnvVar
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Errorf("%s became %q, %v; want %q", text, got, err, want)
		}
	}
}
