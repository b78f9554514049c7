"""Files of arrays that others have made: what their headers say is believed within bounds only, and never unpickled."""
