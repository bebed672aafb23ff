package request

import "encoding/json"

// storedEnvVar is an EnvVar in a record. Values may be any bytes, which JSON strings cannot hold: they are stored as base64.
type storedEnvVar struct {
	Key   string
	Value []byte
}

// MarshalJSON keeps a value that is not UTF-8.
func (e EnvVar) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedEnvVar{Key: e.Key, Value: []byte(e.Value)})
}

// UnmarshalJSON is the reverse.
func (e *EnvVar) UnmarshalJSON(data []byte) error {
	var s storedEnvVar
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	*e = EnvVar{Key: s.Key, Value: string(s.Value)}
	return nil
}
